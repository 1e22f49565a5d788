/** Dialog that says which model of the catalogue a model of an endpoint is. */

import { html } from '../../lib/html.js';
import { t } from '../../core/i18n.js';
import { formDialog } from '../../components/forms/dialog.js';

/**
 * `models`: catalogue id → {model: {name}}; `save(id)` rejects on failure. Resolves to true if the model was
 * mapped.
 */
export const mapModel = ({ endpoint, servedAs, models, suggestion, save }) =>
  formDialog({
    title: t('endpoints.map.title', { name: servedAs }),
    action: t('endpoints.map.action'),
    fields: () => html`
      <div class="field">
        <label for="field-target">${t('endpoints.map.target')}</label>
        <select id="field-target" name="target" aria-describedby="field-target-hint" autofocus>
          ${byName(models).map(
            ([id, name]) => html`
              <option value=${id} .selected=${id === suggestion}>
                ${t('endpoints.map.option', { name, id })}
              </option>`,
          )}
        </select>
        <small id="field-target-hint">${t('endpoints.map.hint', { name: endpoint.name })}</small>
      </div>`,
    perform: (form) => save(form.get('target')),
  });

const byName = (models) =>
  [...models].map(([id, { model }]) => [id, model.name]).sort(([, a], [, b]) => a.localeCompare(b));
