/** API keys: what programs sign in with. Everybody sees their own, administrators all. */

import { html } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { badge } from '../../components/badges.js';
import { confirmDialog } from '../../components/forms/dialog.js';
import { icon } from '../../components/icons.js';
import { dataTable } from '../../components/data-table.js';
import { makeList } from './remote-list.js';
import { askForKey } from './new-key.js';
import { standing } from './key-expiry.js';
import { askForLimits, limitsLines } from './key-limits.js';

/** `changed()` is called after each act. */
export function openKeys(app, changed) {
  const list = makeList(app, async () => (await app.api.get('/api/keys')).keys.reverse());

  async function add() {
    if (await askForKey(app)) changed();
  }

  async function limit(key) {
    if (await askForLimits(app, key)) changed();
  }

  async function revoke({ id, name, prefix }) {
    const done = await confirmDialog({
      title: t('keys.revoke.title', { name }),
      body: html`<p><code>${prefix}…</code></p><p>${t('keys.revoke.text')}</p>`,
      action: t('keys.revoke.action'),
      act: () => app.api.remove(`/api/keys/${encodeURIComponent(id)}`),
    });
    if (!done) return;
    document.getElementById('keys').focus(); // the button goes with its row
    changed();
  }

  const columns = () =>
    [
      { title: t('keys.name'), cell: ({ name, prefix }) => html`<span>${name}</span><code class="key-prefix">${prefix}…</code>` },
      { title: t('keys.scopes'), cell: permissions },
      app.can('admin') && { title: t('keys.owner'), cell: ({ owner }) => owner ?? t('keys.host') },
      { title: t('keys.created'), kind: 'nowrap', cell: ({ created_at: at }) => moment(at) },
      { title: t('keys.last_used'), kind: 'nowrap', cell: ({ last_used_at: at }) => (at ? moment(at) : t('keys.never_used')) },
      { title: t('keys.expires'), cell: ({ expires_at: at }) => expiry(at) },
      { title: t('access.actions'), kind: 'acts', cell: acts },
    ].filter(Boolean);

  const acts = (key) => html`
    <button type="button" class="button quiet small" aria-label=${t('keys.limits.label', { name: key.name })} @click=${() => limit(key)}>
      ${t('keys.limits.open')}
    </button>
    <button type="button" class="button quiet small" aria-label=${t('keys.revoke.label', { name: key.name })} @click=${() => revoke(key)}>
      ${t('keys.revoke.action')}
    </button>`;

  const table = (keys) =>
    keys.length
      ? dataTable({ labelledBy: 'keys', columns: columns(), rows: keys, key: ({ id }) => id })
      : html`<p class="access-none">${t('keys.none')}</p>`;

  return {
    load: list.load,
    isReady: list.isReady,
    view: () => html`
      <section class="card access-card" aria-labelledby="keys">
        <div class="access-head">
          <div><h2 id="keys" tabindex="-1">${t('keys.title')}</h2><p class="soft">${t('keys.text')}</p></div>
          <button type="button" class="button primary" @click=${add}>${icon('plus')}${t('keys.new.open')}</button>
        </div>
        ${list.view(table)}
      </section>`,
  };
}

/** What it may do, and how much of it. */
const permissions = ({ scopes, limits }) => html`
  <ul>
    ${scopes.map((scope) => html`<li>${t(`scope.${scope}`)}</li>`)}
    ${limitsLines(limits).map((line) => html`<li class="key-limit">${line}</li>`)}
  </ul>`;

const moment = (at) => html`<time datetime=${at} title=${f.dateTime(at)}>${f.ago(at)}</time>`;

function expiry(at) {
  if (!at) return t('keys.no_expiry');
  const signs = { expired: badge('bad', t('keys.expired')), soon: badge('waiting', t('keys.expires_soon')) };
  return html`<time datetime=${at}>${f.dateTime(at)}</time> ${signs[standing(at, Date.now())]}`;
}
