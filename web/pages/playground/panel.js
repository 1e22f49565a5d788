/** How a model is to answer: the system prompt and the numbers of sampling, kept with the conversation. */

import { html } from '../../lib/html.js';
import { t } from '../../core/i18n.js';
import { copyButton } from '../../components/copy.js';
import { PARAMETERS, requestBody } from './request.js';
import { asCurl, asPython } from './snippets.js';

/** `changed()` after every change of the conversation's settings. */
export const panel = ({ conversation, model, changed }) => html`
  <aside class="panel" aria-label=${t('playground.settings')}>
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
    <div class="panel-numbers">${PARAMETERS.map((parameter) => numberField(parameter, conversation, changed))}</div>
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
          changed();
        }}
      >
        ${t('playground.reset')}
      </button>
    </div>
    <div class="panel-code">
      <h2>${t('playground.as_code')}</h2>
      <div class="buttons">
        ${copyButton(() => asCurl(location.origin, requestBody(model ?? '', conversation)), t('playground.copy_curl'))}
        ${copyButton(() => asPython(location.origin, requestBody(model ?? '', conversation)), t('playground.copy_python'))}
      </div>
    </div>
  </aside>`;

const numberField = ({ name, min, max, step }, conversation, changed) => html`
  <label class="field">
    <span>${t(`playground.parameter.${name}`)}</span>
    <input
      type="number"
      min=${min}
      max=${max}
      step=${step}
      inputmode="decimal"
      placeholder=${t('playground.default')}
      .value=${String(conversation.parameters[name] ?? '')}
      @change=${({ target }) => {
        if (target.value === '' || !target.checkValidity()) delete conversation.parameters[name];
        else conversation.parameters[name] = target.valueAsNumber;
        // What is out of bounds is not sent, and not shown as if it were.
        target.value = String(conversation.parameters[name] ?? '');
        changed();
      }}
    />
  </label>`;
