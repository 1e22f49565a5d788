/** Dialog that creates an API key. The key is shown only once, in this dialog. */

import { html } from '../../lib/html.js';
import { serverUrl } from '../../lib/base-path.js';
import { t } from '../../core/i18n.js';
import { choices } from '../../components/forms/choices.js';
import { copyBox } from '../../components/copy-button.js';
import { formDialog } from '../../components/forms/dialog.js';
import { note } from '../../components/feedback.js';
import { field } from '../../components/forms/field.js';
import { expiryTime, LIFETIMES, NEVER, ON_A_DATE, today } from './key-expiry.js';
import { limitFields, limitsOf } from './key-limits.js';

const SCOPES = ['inference', 'cloud', 'models:read', 'models:write', 'admin'];
const DEFAULT_SCOPES = ['inference', 'models:read'];
// In characters; same limit as the server.
const NAME_MAX_LENGTH = 64;

/** Resolves to true if a key was created. */
export const askForKey = (app) =>
  formDialog({
    title: t('keys.new.title'),
    action: t('keys.new.action'),
    initialState: { scopes: new Set(DEFAULT_SCOPES), lifetime: NEVER },
    fields: ({ state, update }) => html`
      ${
        app.store.state.me?.user?.must_change_password
          ? note(
              t('keys.new.default_password'),
              html`<a class="button small" href="/settings?focus=password">
                ${t('shell.change_password')}
              </a>`,
              'warning',
            )
          : null
      }
      ${field({
        name: 'name',
        label: t('keys.new.name'),
        hint: t('keys.new.name_hint'),
        maxLength: NAME_MAX_LENGTH,
        autofocus: true,
      })}
      ${scopeChoices(app, state, update)} ${lifetime(state, update)} ${limitFields()}`,
    check: (form) => (form.getAll('scope').length ? null : t('keys.new.no_scope')),
    perform: (form) =>
      app.api.post('/api/keys', {
        name: form.get('name').trim(),
        scopes: form.getAll('scope'),
        expires_at: expiryTime(form.get('lifetime'), form.get('date'), Date.now()),
        limits: limitsOf(form),
      }),
    resultView: newKeyView,
  });

function scopeChoices(app, { scopes }, update) {
  const all = scopes.has('admin');
  return choices({
    legend: t('keys.new.scopes'),
    name: 'scope',
    type: 'checkbox',
    options: SCOPES.filter((scope) => app.can(scope)).map((scope) => ({
      value: scope,
      text: t(`scope.${scope}`),
      hint: t(`scope.${scope}.hint`),
      // Full access implies the others.
      disabled: all && scope !== 'admin',
    })),
    isChosen: (scope) => all || scopes.has(scope),
    onChoose(scope, chosen) {
      const next = new Set(scopes);
      if (chosen) next.add(scope);
      else next.delete(scope);
      update({ scopes: next });
    },
  });
}

const lifetime = ({ lifetime: chosen }, update) => html`
  <div class="new-key-end">
    <div class="field">
      <label for="field-lifetime">${t('keys.new.expires')}</label>
      <select
        id="field-lifetime"
        name="lifetime"
        @change=${(event) => update({ lifetime: event.target.value })}
      >
        ${LIFETIMES.map(
          (value) =>
            html`<option value=${value} .selected=${value === chosen}>${lifetimeText(value)}</option>`,
        )}
      </select>
    </div>
    ${
      chosen === ON_A_DATE
        ? html`
          <label class="field">
            <span>${t('keys.new.date')}</span>
            <input type="date" name="date" required min=${today(Date.now())} />
          </label>`
        : null
    }
  </div>`;

function lifetimeText(value) {
  if (value === NEVER) return t('keys.no_expiry');
  return value === ON_A_DATE ? t('keys.new.on_a_date') : t('keys.new.days', { count: Number(value) });
}

/** Only the dialog's button closes it, because a key that was not copied is lost. */
function newKeyView({ key, name, scopes }, close) {
  const command = curl(key, scopes);
  const usesModels = scopes.some((scope) => scope === 'inference' || scope === 'admin');
  return {
    title: t('keys.made.title', { name }),
    explicitClose: true,
    body: html`
      <div class="dialog-text">
        <p>${t('keys.made.text')}</p>
        ${copyBox(t('keys.made.key'), key, { focused: true })}
        ${
          usesModels
            ? html`
              <p>${t('keys.made.address')}</p>
              ${copyBox(t('keys.made.base_url'), `${serverUrl()}/v1`)}
              <p class="soft">${t('keys.made.anthropic', { url: serverUrl() })}</p>`
            : null
        }
        <p>${t('keys.made.try')}</p>
        ${copyBox(t('keys.made.command'), command)}
      </div>`,
    buttons: html`
      <button type="button" class="button primary" @click=${close}>${t('keys.made.close')}</button>`,
  };
}

/** Request that is permitted for the key, whichever models are downloaded. */
function curl(key, scopes) {
  const path = scopes.some((scope) => scope === 'inference' || scope === 'admin')
    ? '/v1/models'
    : '/api/models';
  return `curl ${serverUrl()}${path} -H 'Authorization: Bearer ${key}'`;
}
