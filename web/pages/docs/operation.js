/** Operation: an expandable row with its details. */

import { html } from '../../lib/html.js';
import { serverUrl } from '../../lib/base-path.js';
import { t } from '../../core/i18n.js';
import { copyButton } from '../../components/copy-button.js';
import { icon } from '../../components/icons.js';
import { asCurl } from './curl.js';
import { constraintText, typeText } from './openapi.js';
import { schemaView } from './schema.js';
import { paragraphs, inlineMarkup } from './inline-markup.js';

/** `ui` as for `schemaView`, plus `commonErrors`: the codes that any request may return. */
export const operationView = (operation, ui) => html`
  <details
    class="docs-operation"
    id=${operation.id}
    ?open=${ui.isOpen(operation.id)}
    @toggle=${(event) => event.target.id === operation.id && ui.toggle(operation.id, event.target.open)}
  >
    <summary>
      <span class="docs-method ${operation.method.toLowerCase()}">${operation.method}</span>
      <code class="docs-path">${breakable(operation.path)}</code>
      <span class="docs-summary" lang="en">${operation.summary}</span>
      ${icon('down')}
    </summary>
    ${ui.isOpen(operation.id) ? operationBody(operation, ui) : null}
  </details>`;

/** Allows line breaks after slashes. */
const breakable = (path) => path.split(/(?<=\/)/).map((piece) => html`<span>${piece}<wbr /></span>`);

function operationBody(operation, ui) {
  const { id, text, parameters, body, example, responses, messages } = operation;
  const curl = asCurl(serverUrl(), operation);
  const specificErrors = operation.errors.filter(({ code }) => !ui.commonErrors.has(code));
  return html`
    <div class="docs-details">
      <div class="docs-text" lang="en">${paragraphs(text)}</div>
      <p class="docs-id">
        <a href=${`#${id}`}>${t('docs.link')}</a> <code>${id}</code>
      </p>
      ${parameters.length ? part(t('docs.parameters'), parameterList(parameters, ui)) : null}
      ${
        body
          ? part(
              t('docs.body'),
              html`${schemaView(body, `${id}/body`, ui)} ${
                example ? code(t('docs.example'), JSON.stringify(example, null, 2)) : null
              }`,
            )
          : null
      }
      ${part(
        t('docs.answers'),
        responses.map((each) => responseView(each, id, ui)),
      )}
      ${messages ? part(t('docs.messages'), schemaView(messages, `${id}/messages`, ui)) : null}
      ${specificErrors.length ? part(t('docs.errors'), errorList(specificErrors)) : null}
      <p class="soft"><a href="#errors">${t('docs.everywhere')}</a></p>
      ${curl ? part('curl', code('curl', curl)) : null}
    </div>`;
}

const part = (title, content) => html`<section class="docs-part"><h3>${title}</h3>${content}</section>`;

const parameterList = (parameters, ui) => html`
  <ul class="docs-fields">
    ${parameters.map(
      ({ name, in: place, required = false, description = '', schema }) => html`
        <li>
          <p class="docs-field">
            <code class="docs-name">${name}</code>
            <code class="docs-type">${typeText(schema, ui.find)}</code>
            ${
              constraintText(schema)
                ? html`<span class="docs-limits" lang="en">${constraintText(schema)}</span>`
                : null
            }
            <span class="docs-limits">${t(`docs.in.${place}`)}</span>
            ${required ? html`<span class="docs-required">${t('docs.required')}</span>` : null}
          </p>
          ${description ? html`<p class="soft" lang="en">${inlineMarkup(description)}</p>` : null}
        </li>`,
    )}
  </ul>`;

const responseView = ({ status, text, contents }, id, ui) => html`
  <div class="docs-answer">
    <p lang="en"><span class="docs-status">${status}</span> ${text}</p>
    ${contents.map(
      ({ type, schema }) => html`
        <div class="docs-kind-of">
          <p class="soft"><code>${type}</code></p>
          ${schemaView(schema, `${id}/${status}/${type}`, ui)}
        </div>`,
    )}
  </div>`;

const errorList = (errors) => html`
  <ul class="docs-fields" lang="en">
    ${errors.map(
      ({ code: name, status, text }) => html`
        <li>
          <p class="docs-field">
            <span class="docs-status">${status}</span> <code class="docs-name">${name}</code>
          </p>
          <p class="soft">${inlineMarkup(text)}</p>
        </li>`,
    )}
  </ul>`;

/** Long lines scroll; with a tab stop also by keyboard. */
const code = (name, text) => html`
  <div class="docs-code">
    <pre tabindex="0" role="group" aria-label=${name}>${text}</pre>
    ${copyButton(text)}
  </div>`;
