/** Spill rules: which other model answers when a model cannot. Administrators only. */

import { each, html } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { alertBox, errorMessage } from '../../components/feedback.js';
import { icon } from '../../components/icons.js';
import { askForRule } from './spill-rule-form.js';

/** `endpoints()`: those known now, whose models can be named. */
export function createSpillRules(app, endpoints) {
  // [{model, routes}]; null before the first response.
  let rules = null;
  let error = null;

  async function load() {
    try {
      ({ models: rules } = await app.api.get('/api/routes'));
      error = null;
    } catch (failure) {
      error = failure;
    }
    app.requestRender();
  }

  const routesOf = (model) => rules.find((each) => each.model === model)?.routes ?? [];

  /** Rejects on failure. */
  async function save(model, routes) {
    await app.api.put(`/api/models/${encodeURIComponent(model)}/routes`, { routes });
    await load();
  }

  async function change(model, routes) {
    try {
      await save(model, routes);
    } catch (failure) {
      app.showToast({ kind: 'error', text: errorMessage(failure) });
    }
  }

  /** Asks for a rule: a new one, or the one of `model` at the position `at`. */
  const ask = (model = null, at = null) =>
    askForRule({
      model,
      rule: at === null ? null : routesOf(model)[at],
      names: modelNames(app.store.state, endpoints()),
      save: (name, rule) =>
        save(
          name,
          at === null
            ? [...routesOf(name), rule]
            : routesOf(name).map((each, index) => (index === at ? rule : each)),
        ),
    });

  const iconButton = (iconName, label, run, isDisabled = false) => html`
    <button
      type="button"
      class="button quiet small square"
      aria-label=${label}
      title=${label}
      aria-disabled=${isDisabled ? 'true' : null}
      @click=${() => isDisabled || run()}
    >
      ${icon(iconName)}
    </button>`;

  const ruleView = (model, routes, rule, at) => {
    const { target } = rule;
    const move = (step) => () => change(model, moved(routes, at, step));
    const remove = () => change(model, routes.toSpliced(at, 1));
    return html`
      <li>
        <div class="spill-rule">
          <div>
            <code>${target}</code>
            <p class="soft">${rule.when.map((trigger) => triggerText(trigger, rule)).join(' · ')}</p>
          </div>
          <div class="buttons">
            ${iconButton('up', t('spill.up', { target }), move(-1), at === 0)}
            ${iconButton('down', t('spill.down', { target }), move(1), at === routes.length - 1)}
            ${iconButton('edit', t('spill.edit', { target }), () => ask(model, at))}
            ${iconButton('trash', t('spill.remove', { target }), remove)}
          </div>
        </div>
      </li>`;
  };

  const content = ({ models }) =>
    rules.length
      ? html`
        <ul class="spill-models">
          ${each(
            rules,
            ({ model }) => model,
            ({ model, routes }) => html`
              <li>
                <h3>${models?.get(model)?.model.name ?? model}</h3>
                <ol aria-label=${t('spill.of', { name: model })}>
                  ${routes.map((rule, at) => ruleView(model, routes, rule, at))}
                </ol>
              </li>`,
          )}
        </ul>`
      : html`<p class="soft">${t('spill.none')}</p>`;

  return {
    load,
    view: (state) => html`
      <section class="card spill" aria-labelledby="spill">
        <div>
          <h2 id="spill">${t('spill.title')}</h2>
          <p class="soft">${t('spill.text')}</p>
        </div>
        ${error ? alertBox(errorMessage(error)) : null} ${rules ? content(state) : null}
        <div>
          <button type="button" class="button" @click=${() => ask()}>${icon('plus')}${t('spill.add')}</button>
        </div>
      </section>`,
  };
}

const triggerText = (trigger, { after_s: seconds }) =>
  trigger === 'busy' && seconds
    ? t('spill.when.busy_after', { time: f.duration(seconds) })
    : t(`spill.when.${trigger}`);

function moved(routes, at, step) {
  const result = [...routes];
  [result[at], result[at + step]] = [result[at + step], result[at]];
  return result;
}

/** Names that requests may use: models of the catalogue that were pulled, and those of endpoints. */
const modelNames = ({ models }, endpoints) => [
  ...[...(models?.values() ?? [])]
    .filter(({ status }) => status !== 'Available')
    .map(({ model }) => model.id),
  ...endpoints.flatMap((endpoint) => endpoint.models.map(({ served_as: name }) => name)),
];
