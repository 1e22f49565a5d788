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

/** `groups`: [[kind, items]], as `selectableModels` returns them. */
export const modelSelect = (groups, model, label, choose) => html`
  <label class="model-choice">
    <span class="sr-only">${label}</span>
    <select class="control" @change=${(event) => choose(event.target.value)}>
      ${groups.map(
        ([kind, items]) => html`
          <optgroup label=${t(`playground.kind.${kind}`)}>
            ${items.map(
              (each) =>
                html`<option value=${each.model.id} .selected=${each === model}>${each.model.name}</option>`,
            )}
          </optgroup>`,
      )}
    </select>
  </label>`;

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
