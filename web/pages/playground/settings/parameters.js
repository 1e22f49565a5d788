/** Parameter panel: presets, system prompt, sampling parameters, and the request as code. */

import { html } from '../../../lib/html.js';
import { serverUrl } from '../../../lib/base-path.js';
import { f, t } from '../../../core/i18n.js';
import { copyButton } from '../../../components/copy-button.js';
import { icon } from '../../../components/icons.js';
import { nextRequestBody, parseNumber, PARAMETERS } from '../chat-request.js';
import { EMPTY_SETTINGS, copySettings } from '../conversations/conversation.js';
import { asCurl, asPython } from './code-snippets.js';
import { presetBar } from './presets.js';

/**
 * `model`: the selected one, or null; `messages`: the version that is shown; `draft`: current input;
 * `invalidInputs`: texts of fields that are not valid numbers, by name. `onChange()` is called after every
 * change, `close()` hides the panel.
 */
export function parameterPanel({ chat, model, messages, draft, invalidInputs, onChange, onError, close }) {
  const { current } = chat;
  const { settings } = current;
  const apply = (chosen) => {
    current.settings = chosen;
    invalidInputs.clear();
    onChange();
  };
  const nextRequest = () =>
    nextRequestBody(model?.model.id ?? '', settings, messages, draft, t('playground.example'));
  return html`
    <section class="parameters" id="parameters" aria-label=${t('playground.settings')}>
      <div class="parameters-head">
        <h2>${t('playground.settings')}</h2>
        <button
          type="button"
          class="button quiet small square"
          aria-label=${t('common.close')}
          @click=${close}
        >
          ${icon('close')}
        </button>
      </div>
      ${presetBar({ chat, model: model?.model.id, modelName: model?.model.name, apply, onError })}
      <label class="field">
        <span>${t('playground.system')}</span>
        <textarea
          rows="4"
          placeholder=${t('playground.system.example')}
          .value=${settings.system}
          @input=${(event) => {
            settings.system = event.target.value;
            onChange();
          }}
        ></textarea>
      </label>
      <div class="parameters-numbers">${PARAMETERS.map((parameter) =>
        numberField(parameter, settings, invalidInputs, onChange),
      )}</div>
      <label class="field">
        <span>${t('playground.stop_sequences')}</span>
        <textarea
          rows="2"
          .value=${settings.stop}
          @input=${(event) => {
            settings.stop = event.target.value;
            onChange();
          }}
        ></textarea>
        <small>${t('playground.stop_hint')}</small>
      </label>
      <div class="buttons">
        <button type="button" class="button small" @click=${() => apply(copySettings(EMPTY_SETTINGS))}>
          ${t('playground.reset')}
        </button>
      </div>
      <div class="parameters-code">
        <h3>${t('playground.as_code')}</h3>
        <div class="buttons">
          ${copyButton(() => asCurl(serverUrl(), nextRequest()), t('playground.copy_curl'))}
          ${copyButton(() => asPython(serverUrl(), nextRequest()), t('playground.copy_python'))}
        </div>
      </div>
    </section>`;
}

function numberField(parameter, settings, invalidInputs, onChange) {
  const { name, min, max, step, usual } = parameter;
  const invalid = invalidInputs.has(name);
  const hintId = `hint-${name}`;
  const range = t(step === 1 ? 'playground.whole' : 'playground.between', {
    min: f.number(min),
    max: f.number(max),
  });
  const readInput = ({ target }) => {
    const value = parseNumber(target.value, parameter);
    invalidInputs.delete(name);
    delete settings.parameters[name];
    if (value === undefined) invalidInputs.set(name, target.value);
    else if (value !== null) settings.parameters[name] = value;
    onChange();
  };
  return html`
    <div class="field parameter">
      <label for=${`parameter-${name}`}>${t(`playground.parameter.${name}`)}</label>
      <input
        id=${`parameter-${name}`}
        inputmode=${step === 1 ? 'numeric' : 'decimal'}
        autocomplete="off"
        placeholder=${usual === null ? t(`playground.usual.${name}`) : String(usual)}
        aria-invalid=${invalid ? 'true' : null}
        aria-describedby=${hintId}
        .value=${invalid ? invalidInputs.get(name) : String(settings.parameters[name] ?? '')}
        @input=${readInput}
      />
      <small id=${hintId} class=${invalid ? 'wrong' : ''}>${
        invalid ? range : t(`playground.help.${name}`)
      }</small>
    </div>`;
}
