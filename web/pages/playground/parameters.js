/** Parameter panel: system prompt and sampling parameters, stored with the conversation. */

import { html } from '../../lib/html.js';
import { serverUrl } from '../../lib/base-path.js';
import { f, t } from '../../core/i18n.js';
import { copyButton } from '../../components/copy-button.js';
import { nextRequestBody, parseNumber, PARAMETERS } from './chat-request.js';
import { asCurl, asPython } from './code-snippets.js';

/**
 * `model`: id of the selected model; `draft`: current input; `invalidInputs`: texts of fields that are not
 * valid numbers, by name. `onChange()` is called after every change.
 */
export const parameterPanel = ({ conversation, model, draft, invalidInputs, onChange }) => html`
  <section class="parameters" id="parameters" aria-label=${t('playground.settings')}>
    <label class="field">
      <span>${t('playground.system')}</span>
      <textarea
        rows="4"
        .value=${conversation.system}
        @input=${(event) => {
          conversation.system = event.target.value;
          onChange();
        }}
      ></textarea>
    </label>
    <div class="parameters-numbers">${PARAMETERS.map((parameter) =>
      numberField(parameter, conversation, invalidInputs, onChange),
    )}</div>
    <label class="field">
      <span>${t('playground.stop_sequences')}</span>
      <textarea
        rows="2"
        .value=${conversation.stop}
        @input=${(event) => {
          conversation.stop = event.target.value;
          onChange();
        }}
      ></textarea>
      <small>${t('playground.stop_hint')}</small>
    </label>
    <div class="buttons">
      <button
        type="button"
        class="button small"
        @click=${() => {
          Object.assign(conversation, { system: '', parameters: {}, stop: '' });
          invalidInputs.clear();
          onChange();
        }}
      >
        ${t('playground.reset')}
      </button>
    </div>
    <div class="parameters-code">
      <h2>${t('playground.as_code')}</h2>
      <div class="buttons">
        ${copyButton(
          () => asCurl(serverUrl(), nextRequest(model, conversation, draft)),
          t('playground.copy_curl'),
        )}
        ${copyButton(
          () => asPython(serverUrl(), nextRequest(model, conversation, draft)),
          t('playground.copy_python'),
        )}
      </div>
    </div>
  </section>`;

const nextRequest = (model, conversation, draft) =>
  nextRequestBody(model ?? '', conversation, draft, t('playground.example'));

function numberField(parameter, conversation, invalidInputs, onChange) {
  const { name, min, max, step } = parameter;
  const invalid = invalidInputs.has(name);
  const errorId = `wrong-${name}`;
  const readInput = ({ target }) => {
    const value = parseNumber(target.value, parameter);
    invalidInputs.delete(name);
    delete conversation.parameters[name];
    if (value === undefined) invalidInputs.set(name, target.value);
    else if (value !== null) conversation.parameters[name] = value;
    onChange();
  };
  return html`
    <label class="field">
      <span>${t(`playground.parameter.${name}`)}</span>
      <input
        inputmode=${step === 1 ? 'numeric' : 'decimal'}
        autocomplete="off"
        placeholder=${t('playground.default')}
        aria-invalid=${invalid ? 'true' : null}
        aria-describedby=${invalid ? errorId : null}
        .value=${invalid ? invalidInputs.get(name) : String(conversation.parameters[name] ?? '')}
        @input=${readInput}
      />
      ${
        invalid
          ? html`<small class="wrong" id=${errorId}>
            ${t(step === 1 ? 'playground.whole' : 'playground.between', {
              min: f.number(min),
              max: f.number(max),
            })}
          </small>`
          : null
      }
    </label>`;
}
