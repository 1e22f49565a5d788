/** Dialog that adds an endpoint. llb finds out what answers at the address. */

import { html } from '../../lib/html.js';
import { t } from '../../core/i18n.js';
import { errorMessage } from '../../components/feedback.js';
import { formDialog } from '../../components/forms/dialog.js';
import { field } from '../../components/forms/field.js';

const ENGINE = 'engine';
// Kinds whose base URL llb knows; an engine has the address of its host.
const CLOUDS = ['openai', 'anthropic', 'google'];

/** Resolves to true if an endpoint was added. */
export const askForEndpoint = (app) =>
  formDialog({
    title: t('endpoints.add'),
    action: t('endpoints.add.action'),
    initialState: { what: ENGINE },
    fields: ({ state, update }) => html`
      <div class="field">
        <label for="field-what">${t('endpoints.add.what')}</label>
        <select
          id="field-what"
          name="what"
          autofocus
          @change=${(event) => update({ what: event.target.value })}
        >
          ${[ENGINE, ...CLOUDS].map(
            (what) => html`
              <option value=${what} .selected=${what === state.what}>
                ${t(`endpoints.add.what.${what}`)}
              </option>`,
          )}
        </select>
      </div>
      ${
        state.what === ENGINE
          ? field({
              name: 'base_url',
              label: t('endpoints.base_url'),
              hint: t('endpoints.base_url.hint'),
              type: 'url',
            })
          : null
      }
      ${field({
        name: 'key',
        label: t('endpoints.key'),
        hint: t(state.what === ENGINE ? 'endpoints.key.hint' : 'endpoints.key.cloud_hint'),
        type: 'password',
        optional: state.what === ENGINE,
      })}
      ${field({
        name: 'name',
        label: t('endpoints.name'),
        hint: t('endpoints.name.hint'),
        optional: true,
        maxLength: 63,
      })}`,
    perform(form) {
      const what = form.get('what');
      return app.api.post('/api/endpoints', {
        ...(what === ENGINE ? { base_url: form.get('base_url').trim() } : { kind: what }),
        ...(form.get('key') ? { key: form.get('key') } : {}),
        ...(form.get('name').trim() ? { name: form.get('name').trim() } : {}),
      });
    },
    toMessage: errorMessage,
  });
