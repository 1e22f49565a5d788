/** Presets: named system prompts and parameters, and the default of a model. */

import { html } from '../../../lib/html.js';
import { t } from '../../../core/i18n.js';
import { confirmDialog } from '../../../components/forms/dialog.js';
import { icon } from '../../../components/icons.js';
import { copySettings, newId } from '../conversations/conversation.js';
import { askForName } from '../conversations/dialogs.js';

const MAX_NAME_LENGTH = 80;

export const sameSettings = (a, b) => JSON.stringify(sorted(a)) === JSON.stringify(sorted(b));

const sorted = ({ system, parameters, stop }) => [
  system,
  stop,
  Object.entries(parameters).sort(([a], [b]) => (a < b ? -1 : 1)),
];

/** Settings of new conversations with a model; null without a preset for it. */
export const defaultSettings = (presets, model) =>
  presets.find(({ models }) => models.includes(model))?.settings ?? null;

/** `apply(settings)`: the user has chosen a preset. `onError(error)`: it could not be saved. */
export function presetBar({ chat, model, modelName, apply, onError }) {
  const { settings } = chat.current;
  const chosen = chat.presets.find((preset) => sameSettings(preset.settings, settings)) ?? null;
  const save = (preset) => chat.savePreset(preset).catch(onError);
  const saveAs = async () => {
    const name = await askForName({
      title: t('playground.preset.save'),
      label: t('playground.preset.name'),
      action: t('playground.preset.save_action'),
      value: '',
      maxLength: MAX_NAME_LENGTH,
    });
    if (!name) return;
    const known = chat.presets.find((preset) => preset.name === name);
    await save({ models: [], ...known, id: known?.id ?? newId(), name, settings: copySettings(settings) });
  };
  const remove = () =>
    confirmDialog({
      title: t('playground.preset.delete'),
      body: chosen.name,
      action: t('action.delete'),
      perform: () => chat.removePreset(chosen.id),
    });
  return html`
    <div class="presets">
      <label class="field">
        <span>${t('playground.preset')}</span>
        <select
          class="control"
          @change=${(event) => {
            const preset = chat.presets.find(({ id }) => id === event.target.value);
            if (preset) apply(copySettings(preset.settings));
          }}
        >
          <option value="" .selected=${!chosen}>${t(
            chat.presets.length ? 'playground.preset.none' : 'playground.preset.empty',
          )}</option>
          ${chat.presets.map(
            (preset) =>
              html`<option value=${preset.id} .selected=${preset === chosen}>${preset.name}</option>`,
          )}
        </select>
      </label>
      <div class="buttons">
        <button type="button" class="button small" @click=${saveAs}>
          ${icon('plus')}${t('playground.preset.save')}
        </button>
        ${
          chosen
            ? html`<button type="button" class="button quiet small" @click=${remove}>
                ${icon('trash')}${t('playground.preset.delete_action')}
              </button>`
            : null
        }
      </div>
      ${
        chosen && model
          ? html`<label class="choice preset-default">
              <input
                type="checkbox"
                .checked=${chosen.models.includes(model)}
                @change=${(event) =>
                  save({
                    ...chosen,
                    models: event.target.checked
                      ? [...chosen.models, model]
                      : chosen.models.filter((id) => id !== model),
                  })}
              />
              <span>${t('playground.preset.default', { name: modelName })}</span>
            </label>`
          : null
      }
    </div>`;
}
