/** How a model is to answer: the system prompt and the numbers of sampling, kept with the conversation. */

import { html } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { copyButton } from '../../components/copy-button.js';
import { nextBody, numberFrom, PARAMETERS } from './chat-request.js';
import { asCurl, asPython } from './code-snippets.js';

/**
 * `model`: the id of the one that is asked; `draft`: what is being typed; `typed`: texts of fields that are no numbers to be
 * sent, by their names. `changed()` after every change.
 */
export const panel = ({ conversation, model, draft, typed, changed }) => html`
  <section class="panel" id="panel-settings" aria-label=${t('playground.settings')}>
    <label class="field">
      <span>${t('playground.system')}</span>
      <textarea
        rows="4"
        .value=${conversation.system}
        @input=${(event) => {
          conversation.system = event.target.value;
          changed();
        }}
      ></textarea>
    </label>
    <div class="panel-numbers">${PARAMETERS.map((parameter) => numberField(parameter, conversation, typed, changed))}</div>
    <label class="field">
      <span>${t('playground.stop_sequences')}</span>
      <textarea
        rows="2"
        .value=${conversation.stop}
        @input=${(event) => {
          conversation.stop = event.target.value;
          changed();
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
          typed.clear();
          changed();
        }}
      >
        ${t('playground.reset')}
      </button>
    </div>
    <div class="panel-code">
      <h2>${t('playground.as_code')}</h2>
      <div class="buttons">
        ${copyButton(() => asCurl(location.origin, next(model, conversation, draft)), t('playground.copy_curl'))}
        ${copyButton(() => asPython(location.origin, next(model, conversation, draft)), t('playground.copy_python'))}
      </div>
    </div>
  </section>`;

const next = (model, conversation, draft) => nextBody(model ?? '', conversation, draft, t('playground.example'));

function numberField(parameter, conversation, typed, changed) {
  const { name, min, max, step } = parameter;
  const wrong = typed.has(name);
  const note = `wrong-${name}`;
  const read = ({ target }) => {
    const value = numberFrom(target.value, parameter);
    typed.delete(name);
    delete conversation.parameters[name];
    if (value === undefined) typed.set(name, target.value);
    else if (value !== null) conversation.parameters[name] = value;
    changed();
  };
  return html`
    <label class="field">
      <span>${t(`playground.parameter.${name}`)}</span>
      <input
        inputmode=${step === 1 ? 'numeric' : 'decimal'}
        autocomplete="off"
        placeholder=${t('playground.default')}
        aria-invalid=${wrong ? 'true' : null}
        aria-describedby=${wrong ? note : null}
        .value=${wrong ? typed.get(name) : String(conversation.parameters[name] ?? '')}
        @input=${read}
      />
      ${wrong
        ? html`<small class="wrong" id=${note}>
            ${t(step === 1 ? 'playground.whole' : 'playground.between', { min: f.number(min), max: f.number(max) })}
          </small>`
        : null}
    </label>`;
}
