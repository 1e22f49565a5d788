/** Head of the Playground: the choice of the model, and the buttons of the panels. */

import { html } from '../../lib/html.js';
import { t } from '../../core/i18n.js';
import { icon } from '../../components/icons.js';
import { selectableModels } from './model-choice.js';
import { showShortcuts } from './shortcuts.js';

/** `kind` of the selected model; `drawers`: open panels; `compares`: whether there are two models. */
export const chatHead = ({
  state,
  model,
  kind,
  drawers,
  compares,
  chooseModel,
  toggle,
  toggleComparison,
}) => html`
  <div class="page-head chat-head">
    <h1 tabindex="-1">${t('nav.playground')}</h1>
    ${modelSelect(selectableModels(state, model), model, t('playground.model'), chooseModel)}
    <div class="buttons">
      ${
        kind === null || kind === 'chat'
          ? html`
              ${button('conversations', 'list', 'playground.conversations', drawers.conversations, () =>
                toggle('conversations'),
              )}
              ${button('compare', 'columns', 'playground.compare', compares, toggleComparison)}
              ${button('parameters', 'sliders', 'playground.settings', drawers.parameters, () =>
                toggle('parameters'),
              )}`
          : null
      }
      ${button('help', 'help', 'playground.shortcuts', null, showShortcuts)}
    </div>
  </div>`;

/** `groups`: as `selectableModels` returns them. */
export const modelSelect = (groups, model, label, choose) => html`
  <label class="model-choice">
    <span class="sr-only">${label}</span>
    <select class="control" @change=${(event) => choose(event.target.value)}>
      ${groups.map(
        ({ kind, source, items }) => html`
          <optgroup label=${groupName(kind, source)}>
            ${items.map(
              (each) =>
                html`<option value=${each.model.id} .selected=${each === model}>${optionName(each)}</option>`,
            )}
          </optgroup>`,
      )}
    </select>
  </label>`;

function groupName(kind, source) {
  const what = t(`playground.kind.${kind}`);
  if (!source) return what;
  const engine = t(`endpoints.kind.${source.kind.replaceAll('.', '_')}`);
  const where = engine.toLowerCase() === source.name ? engine : `${source.name} (${engine})`;
  return `${what} · ${where}${source.cloud ? ` · ${t('endpoints.cloud')}` : ''}`;
}

/** A model that cannot answer at the moment says so. */
const optionName = ({ model, source }) =>
  source && AWAY.has(source.status)
    ? `${model.name} – ${t(`endpoints.status.${source.status}`)}`
    : model.name;

const AWAY = new Set(['offline', 'misconfigured', 'rate_limited']);

/** `expanded`: null for a button without a panel. */
const button = (name, iconName, key, expanded, run) => html`
  <button
    type="button"
    class="button quiet small toggle-${name}"
    aria-label=${t(key)}
    title=${t(key)}
    aria-expanded=${expanded === null ? null : String(Boolean(expanded))}
    @click=${run}
  >
    ${icon(iconName)}<span aria-hidden="true">${t(key)}</span>
  </button>`;
