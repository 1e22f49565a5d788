/** API keys. Users see their own, administrators all. */

import { html } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { badge } from '../../components/badges.js';
import { confirmDialog } from '../../components/forms/dialog.js';
import { icon } from '../../components/icons.js';
import { dataTable } from '../../components/data-table.js';
import { buildUrl } from '../../core/router.js';
import { createRemoteList } from './remote-list.js';
import { askForKey } from './new-key.js';
import { expiryState } from './key-expiry.js';
import { askForLimits, limitLines } from './key-limits.js';

const PAGE_SIZE = 100;

/** `changed()` is called after each change. */
export function createKeySection(app, changed) {
  const list = createRemoteList(app, async (known, after = null) => {
    const page = await app.api.get(buildUrl('/api/keys', { order: 'newest', limit: PAGE_SIZE, after }));
    return after === null ? page : { ...page, keys: [...known.keys, ...page.keys] };
  });

  async function add() {
    if (await askForKey(app)) changed();
  }

  async function changeLimits(key) {
    if (await askForLimits(app, key)) changed();
  }

  async function revoke({ id, name, prefix }) {
    const resultView = await confirmDialog({
      title: t('keys.revoke.title', { name }),
      body: html`<p><code>${prefix}…</code></p><p>${t('keys.revoke.text')}</p>`,
      action: t('keys.revoke.action'),
      perform: () => app.api.remove(`/api/keys/${encodeURIComponent(id)}`),
    });
    if (!resultView) return;
    // The button disappears with its row.
    document.getElementById('keys').focus();
    changed();
  }

  const columns = () =>
    [
      {
        title: t('keys.name'),
        cell: ({ name, prefix }) => html`<span>${name}</span><code class="key-prefix">${prefix}…</code>`,
      },
      { title: t('keys.scopes'), cell: permissions },
      app.can('admin') && { title: t('keys.owner'), cell: ({ owner }) => owner ?? t('keys.host') },
      { title: t('keys.created'), kind: 'nowrap', cell: ({ created_at: at }) => timeCell(at) },
      {
        title: t('keys.last_used'),
        kind: 'nowrap',
        cell: ({ last_used_at: at }) => (at ? timeCell(at) : t('keys.never_used')),
      },
      { title: t('keys.expires'), cell: ({ expires_at: at }) => expiryCell(at) },
      { title: t('access.actions'), kind: 'actions', cell: actionButtons },
    ].filter(Boolean);

  const actionButtons = (key) => html`
    <button
      type="button"
      class="button quiet small"
      aria-label=${t('keys.limits.label', { name: key.name })}
      @click=${() => changeLimits(key)}
    >
      ${t('keys.limits.open')}
    </button>
    <button
      type="button"
      class="button quiet small"
      aria-label=${t('keys.revoke.label', { name: key.name })}
      @click=${() => revoke(key)}
    >
      ${t('keys.revoke.action')}
    </button>`;

  const table = ({ keys, next_cursor: next }) => html`
    ${
      keys.length
        ? dataTable({ labelledBy: 'keys', columns: columns(), rows: keys, key: ({ id }) => id })
        : html`<p class="access-none">${t('keys.none')}</p>`
    }
    ${
      next === null
        ? null
        : html`
            <div>
              <button type="button" class="button small" @click=${() => list.load(next)}>
                ${t('keys.older')}
              </button>
            </div>`
    }`;

  return {
    load: () => list.load(),
    isReady: list.isReady,
    view: () => html`
      <section class="card access-card" aria-labelledby="keys">
        <div class="access-head">
          <div><h2 id="keys" tabindex="-1">${t('keys.title')}</h2><p class="soft">${t('keys.text')}</p></div>
          <button type="button" class="button primary" @click=${add}>
            ${icon('plus')}${t('keys.new.open')}
          </button>
        </div>
        ${list.view(table)}
      </section>`,
  };
}

/** Permissions and limits of a key. */
const permissions = ({ scopes, limits }) => html`
  <ul>
    ${scopes.map((scope) => html`<li>${t(`scope.${scope}`)}</li>`)}
    ${limitLines(limits).map((line) => html`<li class="key-limit">${line}</li>`)}
  </ul>`;

const timeCell = (at) => html`<time datetime=${at} title=${f.dateTime(at)}>${f.ago(at)}</time>`;

function expiryCell(at) {
  if (!at) return t('keys.no_expiry');
  const signs = { expired: badge('bad', t('keys.expired')), soon: badge('waiting', t('keys.expires_soon')) };
  return html`<time datetime=${at}>${f.dateTime(at)}</time> ${signs[expiryState(at, Date.now())]}`;
}
