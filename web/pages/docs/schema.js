/** Schema: the fields of an object. Nested objects open on demand. */

import { html } from '../../lib/html.js';
import { t } from '../../core/i18n.js';
import { constraintText, unwrapSchema, typeText, objectSchemas } from './openapi.js';
import { inlineMarkup } from './inline-markup.js';

/** Expandable schema. `place` is its unique path; `ui` is {find, isOpen(place), toggle(place, open)}. */
export function schemaView(schema, place, ui) {
  const objects = objectSchemas(schema, ui.find);
  if (!objects.length) return html`<p class="docs-kind"><code>${typeText(schema, ui.find)}</code></p>`;
  return html`<div class="docs-schemas">${objects.map((each) =>
    expandable(each, `${place}/${each.name}`, ui),
  )}</div>`;
}

const expandable = ({ name, schema }, place, ui) => html`
  <details
    class="docs-schema"
    ?open=${ui.isOpen(place)}
    @toggle=${(event) => ui.toggle(place, event.target.open)}
  >
    <summary><code>${name || 'object'}</code></summary>
    ${ui.isOpen(place) ? fields(schema, place, ui) : null}
  </details>`;

function fields(schema, place, ui) {
  const required = new Set(schema.required ?? []);
  return html`
    ${schema.description ? html`<p class="soft" lang="en">${inlineMarkup(schema.description)}</p>` : null}
    <ul class="docs-fields">
      ${requiredFirst(schema.properties, required).map(([name, each]) =>
        field(name, each, required.has(name), `${place}/${name}`, ui),
      )}
    </ul>
    ${schema.additionalProperties === true ? html`<p class="soft">${t('docs.open_object')}</p>` : null}`;
}

/** Required fields first. */
const requiredFirst = (properties, required) => {
  const all = Object.entries(properties);
  return [...all.filter(([name]) => required.has(name)), ...all.filter(([name]) => !required.has(name))];
};

function field(name, schema, required, place, ui) {
  const { schema: here } = unwrapSchema(schema, ui.find);
  const text = schema.description ?? (here.properties ? null : here.description);
  const limits = constraintText(here);
  return html`
    <li>
      <p class="docs-field">
        <code class="docs-name">${name}</code>
        <code class="docs-type">${typeText(schema, ui.find)}</code>
        ${limits ? html`<span class="docs-limits" lang="en">${limits}</span>` : null}
        ${required ? html`<span class="docs-required">${t('docs.required')}</span>` : null}
      </p>
      ${text ? html`<p class="soft" lang="en">${inlineMarkup(text)}</p>` : null}
      ${objectSchemas(schema, ui.find).map((each) => expandable(each, `${place}/${each.name}`, ui))}
    </li>`;
}
