/** API keys: what programs sign in with. A key is shown once, when it is made. */

import { each, html } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { badge } from '../../components/badges.js';
import { copyButton } from '../../components/copy.js';
import { confirmDialog, formDialog } from '../../components/dialog.js';
import { icon } from '../../components/icons.js';
import { makeList } from './list.js';

const SCOPES = ['inference', 'models:read', 'models:write', 'admin'];
const LIFETIMES = ['', '7', '30', '90', '365'];
const DAY_MS = 86_400_000;
const SOON_MS = 7 * DAY_MS;

export function openKeys(app) {
  const list = makeList(app, async () => (await app.api.get('/api/keys')).keys);

  async function add() {
    await formDialog({
      title: t('keys.new.title'),
      action: t('keys.new.action'),
      fields: () => fields(app),
      check: (form) => (form.getAll('scope').length ? null : t('keys.new.no_scope')),
      act: (form) => app.api.post('/api/keys', newKey(form)),
      done: shownOnce,
    });
    list.load();
  }

  async function revoke({ id, name }) {
    const done = await confirmDialog({
      title: t('keys.revoke.title', { name }),
      body: t('keys.revoke.text'),
      action: t('keys.revoke.action'),
      act: () => app.api.remove(`/api/keys/${encodeURIComponent(id)}`),
    });
    if (done) list.load();
  }

  const row = (key) => html`
    <tr>
      <th scope="row">${key.name}</th>
      <td><code>${key.prefix}…</code></td>
      <td>${key.scopes.map((scope) => t(`scope.${scope}`)).join(', ')}</td>
      <td>${key.owner ?? t('keys.host')}</td>
      <td class="nowrap">${key.last_used_at ? f.ago(key.last_used_at) : t('keys.never_used')}</td>
      <td class="nowrap">${expiry(key.expires_at)}</td>
      <td class="number">
        <button type="button" class="button quiet small" aria-label=${t('keys.revoke.label', { name: key.name })} @click=${() => revoke(key)}>
          ${t('keys.revoke.action')}
        </button>
      </td>
    </tr>`;

  const table = (keys) => html`
    <div class="table-place" tabindex="0" role="region" aria-label=${t('keys.table')}>
      <table class="table">
        <thead>
          <tr>
            ${['name', 'key', 'scopes', 'owner', 'last_used', 'expires'].map((name) => html`<th scope="col">${t(`keys.${name}`)}</th>`)}
            <th><span class="sr-only">${t('access.actions')}</span></th>
          </tr>
        </thead>
        <tbody>${each(keys, ({ id }) => id, row)}</tbody>
      </table>
    </div>`;

  return {
    load: list.load,
    view: () => html`
      <section class="card access-card" aria-labelledby="keys">
        <div class="access-head">
          <div><h2 id="keys">${t('keys.title')}</h2><p class="soft">${t('keys.text')}</p></div>
          <button type="button" class="button primary" @click=${add}>${icon('plus')}${t('keys.new.open')}</button>
        </div>
        ${list.items === null
          ? list.placeholder()
          : list.items.length
            ? table(list.items)
            : html`<p class="soft">${t('keys.none')}</p>`}
      </section>`,
  };
}

function expiry(moment) {
  if (!moment) return t('keys.no_expiry');
  const left = Date.parse(moment) - Date.now();
  if (left <= 0) return badge('bad', t('keys.expired'));
  return left < SOON_MS ? badge('waiting', f.ago(moment)) : f.dateTime(moment);
}

const fields = (app) => html`
  <label class="field">
    <span>${t('keys.new.name')}</span>
    <input name="name" maxlength="64" required autocomplete="off" autofocus />
    <small>${t('keys.new.name_hint')}</small>
  </label>
  <fieldset class="field">
    <legend>${t('keys.new.scopes')}</legend>
    ${SCOPES.filter((scope) => app.can(scope)).map(
      (scope) => html`
        <label class="choice">
          <input type="checkbox" name="scope" value=${scope} .checked=${scope === 'inference' || scope === 'models:read'} />
          <span>${t(`scope.${scope}`)}<small>${t(`scope.${scope}.hint`)}</small></span>
        </label>`,
    )}
  </fieldset>
  <label class="field">
    <span>${t('keys.new.expires')}</span>
    <select name="days">
      ${LIFETIMES.map((days) => html`<option value=${days}>${days ? t('keys.new.days', { count: Number(days) }) : t('keys.no_expiry')}</option>`)}
    </select>
  </label>`;

function newKey(form) {
  const days = Number(form.get('days'));
  return {
    name: form.get('name').trim(),
    scopes: form.getAll('scope'),
    expires_at: days ? new Date(Date.now() + days * DAY_MS).toISOString() : null,
  };
}

/** The only time that the key itself is on the page. */
const shownOnce = ({ key, name }, close) => ({
  title: t('keys.made.title', { name }),
  firm: true,
  body: html`
    <div class="dialog-text">
      <p>${t('keys.made.text')}</p>
      <div class="secret"><code>${key}</code>${copyButton(key)}</div>
      <p>${t('keys.made.try')}</p>
      <div class="secret tall"><code>${example(key)}</code>${copyButton(() => example(key), t('keys.made.copy_command'))}</div>
    </div>`,
  buttons: html`<button type="button" class="button primary" @click=${close} autofocus>${t('keys.made.close')}</button>`,
});

const example = (key) => `curl ${location.origin}/v1/models -H 'Authorization: Bearer ${key}'`;
