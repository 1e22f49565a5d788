/** Dialogs of a model: how it is loaded, with the memory that it will take, and on which nodes it is kept. */

import { html } from '../../../lib/html.js';
import { f, fitReason, t } from '../../../core/i18n.js';
import { alertBox, errorMessage } from '../../../components/feedback.js';
import { formDialog } from '../../../components/forms/dialog.js';

const CONTEXTS = [2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144];
const KEEP_ALIVES = [300, 1800, 3600, 21_600, 86_400, -1];
const MAX_SLOTS = 64;

const numberOf = (form, name) => (form.get(name) ? Number(form.get(name)) : null);

/** Asks how `item` is loaded. `load(options)` begins it. */
export function openLoadDialog(app, item, load) {
  const { model } = item;
  const options = item.options ?? {};
  const path = `/api/models/${encodeURIComponent(model.id)}/fit`;
  let asked = '';

  /** Requests the memory that a load would take. An answer to an earlier request is dropped. */
  async function estimate(form, update) {
    const query = new URLSearchParams();
    if (form.get('context')) query.set('context_length', form.get('context'));
    if (form.get('slots')) query.set('slots', form.get('slots'));
    const question = String(query);
    asked = question;
    update({ chosen: Object.fromEntries(form) });
    try {
      const fit = await app.api.get(`${path}?${query}`);
      if (asked === question) update({ fit, problem: null });
    } catch (error) {
      if (asked === question) update({ fit: null, problem: errorMessage(error) });
    }
  }

  const begin = (element, update) => estimate(new FormData(element), update);
  let begun = false;

  return formDialog({
    title: t('load.title', { name: model.name }),
    initialState: {
      chosen: {
        context: String(options.context_length ?? ''),
        slots: String(options.slots ?? ''),
        keep: String(options.keep_alive ?? ''),
      },
    },
    action: t('action.load'),
    fields: ({ update, state }) => html`
      <div
        class="load-fields"
        ref=${(element) => {
          if (begun) return;
          begun = true;
          queueMicrotask(() => element.closest('form') && begin(element.closest('form'), update));
        }}
        @input=${(event) => begin(event.currentTarget.closest('form'), update)}
      >
        ${select('context', t('load.context'), state.chosen.context, contextChoices(model, options))}
        <div class="field">
          <label for="load-slots">${t('load.slots')}</label>
          <input
            id="load-slots"
            name="slots"
            type="number"
            min="1"
            max=${MAX_SLOTS}
            placeholder=${t('load.default')}
            .value=${state.chosen.slots}
            aria-describedby="load-slots-hint"
          />
          <small id="load-slots-hint">${t('load.slots_hint')}</small>
        </div>
        ${select('keep', t('load.keep'), state.chosen.keep, keepChoices(options))}
      </div>
      ${estimateView(state)}`,
    perform: async (form) => {
      load({
        context_length: numberOf(form, 'context'),
        slots: numberOf(form, 'slots'),
        keep_alive: numberOf(form, 'keep'),
      });
    },
  });
}

function contextChoices({ context_length: trained }, { context_length: chosen }) {
  const lengths = CONTEXTS.filter((length) => !trained || length <= trained);
  if (trained && !lengths.includes(trained)) lengths.push(trained);
  if (chosen && !lengths.includes(chosen)) lengths.push(chosen);
  return lengths.sort((a, b) => a - b).map((value) => [value, t('model.tokens', { count: f.tokens(value) })]);
}

const keepChoices = ({ keep_alive: chosen }) =>
  [...new Set([...KEEP_ALIVES, chosen ?? KEEP_ALIVES[0]])].map((value) => [
    value,
    value < 0 ? t('load.keep_forever') : f.duration(value),
  ]);

const select = (name, label, chosen, choices) => html`
  <div class="field">
    <label for=${`load-${name}`}>${label}</label>
    <select id=${`load-${name}`} name=${name}>
      <option value="" .selected=${!chosen}>${t('load.default')}</option>
      ${choices.map(
        ([value, text]) =>
          html`<option value=${value} .selected=${String(value) === chosen}>${text}</option>`,
      )}
    </select>
  </div>`;

function estimateView({ fit, problem }) {
  if (problem) return null;
  if (!fit) return html`<p class="load-estimate" role="status">${t('common.loading')}</p>`;
  if (!fit.fits) return alertBox(`${t('model.fit.no')} ${fitReason(fit) ?? ''}`);
  const total = fit.devices.reduce((sum, device) => sum + device.total_bytes, fit.host.total_bytes);
  return html`
    <p class="load-estimate" role="status">
      <strong>${t('load.reserves', { size: f.bytes(total) })}</strong>
      ${t('load.with', { slots: f.number(fit.slots), context: f.tokens(fit.context_length) })}
      ${fitReason(fit)}
    </p>`;
}

/** Asks on which nodes `item` is kept. */
export function openPlacementDialog(app, item, nodes) {
  const list = [...nodes.values()];
  const tags = [...new Set(list.flatMap((node) => node.tags))].sort();
  const { placement } = item;
  const initial = placement === null || !placement ? 'all' : placement.tag ? 'tag' : 'nodes';
  return formDialog({
    title: t('placement.title', { name: item.model.name }),
    initialState: { kind: initial },
    action: t('placement.save'),
    check: (form) =>
      form.get('kind') === 'nodes' && !form.getAll('node').length ? t('placement.choose') : null,
    fields: ({ update, state }) => html`
      <fieldset
        class="choices"
        @change=${({ target }) => target.name === 'kind' && update({ kind: target.value })}
      >
        <legend>${t('placement.keep_on')}</legend>
        ${['all', 'nodes', ...(tags.length ? ['tag'] : [])].map(
          (kind) => html`
            <label class="choice">
              <input type="radio" name="kind" value=${kind} .checked=${state.kind === kind} />
              <span>${t(`placement.${kind}`)}</span>
            </label>`,
        )}
      </fieldset>
      ${
        state.kind === 'nodes'
          ? html`
            <fieldset class="choices">
              <legend>${t('nav.nodes')}</legend>
              ${list.map(
                (node) => html`
                  <label class="choice">
                    <input
                      type="checkbox"
                      name="node"
                      value=${node.id}
                      .checked=${placement?.nodes.includes(node.id) ?? false}
                    />
                    <span>${node.name}</span>
                  </label>`,
              )}
            </fieldset>`
          : null
      }
      ${
        state.kind === 'tag'
          ? html`
            <div class="field">
              <label for="placement-tag">${t('placement.tag_name')}</label>
              <select id="placement-tag" name="tag">
                ${tags.map(
                  (tag) => html`<option value=${tag} .selected=${tag === placement?.tag}>${tag}</option>`,
                )}
              </select>
            </div>`
          : null
      }
      <p class="soft">${t('placement.text')}</p>`,
    perform: async (form) => {
      const kind = form.get('kind');
      const chosen =
        kind === 'nodes' ? { nodes: form.getAll('node') } : kind === 'tag' ? { tag: form.get('tag') } : null;
      await app.api.patch(`/api/models/${encodeURIComponent(item.model.id)}`, { placement: chosen });
      await app.sync.reloadAll();
    },
  });
}
