/** Audit log, newest first. Administrators only. */

import { html } from '../../lib/html.js';
import { f, hasText, t } from '../../core/i18n.js';
import { badge, errorCodeText } from '../../components/badges.js';
import { dataTable } from '../../components/data-table.js';
import { buildUrl } from '../../core/router.js';
import { createRemoteList } from './remote-list.js';

const PAGE_SIZE = 20;

export function createAuditLog(app) {
  const list = createRemoteList(app, async (known, before = null) => {
    const page = await app.api.get(buildUrl('/api/audit', { limit: PAGE_SIZE, before }));
    return before === null
      ? mergePages(page, known)
      : { ...page, entries: [...known.entries, ...page.entries] };
  });

  const table = ({ entries, next_cursor: next }) => html`
    ${dataTable({ labelledBy: 'audit', columns: columns(), rows: entries, key: ({ id }) => id })}
    ${
      next === null
        ? null
        : html`
            <div>
              <button type="button" class="button small" @click=${() => list.load(next)}>
                ${t('audit.older')}
              </button>
            </div>`
    }`;

  return {
    load: () => list.load(),
    isReady: list.isReady,
    view: () => html`
      <section class="card access-card" aria-labelledby="audit">
        <div><h2 id="audit" tabindex="-1">${t('audit.title')}</h2><p class="soft">${t('audit.text')}</p></div>
        ${list.view(table)}
      </section>`,
  };
}

/** Merges a newer first page with the known entries below it, unless there is a gap between the two. */
function mergePages(page, known) {
  const last = page.entries.at(-1);
  const below = known?.entries.filter(({ id }) => id < last?.id) ?? [];
  const meets = page.entries.some(({ id }) => id === known?.entries[0]?.id);
  return meets && below.length
    ? { entries: [...page.entries, ...below], next_cursor: known.next_cursor }
    : page;
}

const columns = () => [
  { title: t('audit.act'), cell: actionCell },
  { title: t('audit.who'), cell: ({ actor }) => actor },
  { title: t('audit.address'), cell: ({ address: from }) => from ?? '–' },
  { title: t('audit.result'), cell: resultCell },
  {
    title: t('audit.time'),
    kind: 'nowrap',
    cell: ({ time }) => html`<time datetime=${time}>${f.dateTime(time)}</time>`,
  },
];

/** Translated where a text exists: `user.change role+password` has the key `user_change_role_password`. */
function actionCell({ action, target }) {
  const key = `audit.action.${keyPart(action)}`;
  return html`<span>${hasText(key) ? t(key) : action}</span> ${
    target ? html`<span class="audit-target">${target}</span>` : null
  }`;
}

function resultCell({ result }) {
  if (result === 'ok') return html`<span class="soft">${t('audit.ok')}</span>`;
  const key = `audit.result.${keyPart(result)}`;
  const reason = hasText(key) ? t(key) : errorCodeText(result);
  return html`<span title=${result}>${badge('bad', t('audit.failed', { reason }))}</span>`;
}

const keyPart = (name) => name.replace(/\W+/g, '_');
