/** What was done: every administrative act, newest first. For administrators. */

import { each, html } from '../../lib/html.js';
import { f, hasText, t } from '../../core/i18n.js';
import { badge } from '../../components/badges.js';
import { alertBox, explain } from '../../components/feedback.js';
import { address } from '../../core/router.js';

const PAGE = 50;

export function openAudit(app) {
  let entries = null;
  let next = null;
  let error = null;

  async function load(before = null) {
    try {
      const page = await app.api.get(address('/api/audit', { limit: PAGE, before }));
      entries = before === null ? page.entries : [...entries, ...page.entries];
      [next, error] = [page.next_cursor, null];
    } catch (failure) {
      error = failure;
    }
    app.touch();
  }

  const table = () => html`
    <div class="table-place" tabindex="0" role="region" aria-label=${t('audit.table')}>
      <table class="table">
        <thead>
          <tr>${['time', 'who', 'action', 'target', 'address', 'result'].map((name) => html`<th scope="col">${t(`audit.${name}`)}</th>`)}</tr>
        </thead>
        <tbody>${each(entries, ({ id }) => id, row)}</tbody>
      </table>
    </div>
    ${next === null
      ? null
      : html`<div><button type="button" class="button small" @click=${() => load(next)}>${t('audit.older')}</button></div>`}`;

  return {
    load: () => load(),
    view: () => html`
      <section class="card access-card" aria-labelledby="audit">
        <div><h2 id="audit">${t('audit.title')}</h2><p class="soft">${t('audit.text')}</p></div>
        ${error ? alertBox(explain(error)) : null}
        ${entries === null ? (error ? null : html`<div class="skeleton access-wait" aria-hidden="true"></div>`) : table()}
      </section>`,
  };
}

const row = ({ time, actor, action, target, address: from, result }) => html`
  <tr>
    <td class="nowrap">${f.dateTime(time)}</td>
    <td>${actor}</td>
    <td>${actText(action)}</td>
    <td>${target ?? '–'}</td>
    <td>${from ?? '–'}</td>
    <td>${result === 'ok' ? badge('good', t('audit.ok')) : badge('bad', result)}</td>
  </tr>`;

/** An act in words where they are known: `user.change role+password` is under `user_change_role_password`. */
function actText(action) {
  const name = action.replace(/\W/g, '_');
  return hasText(`audit.action.${name}`) ? t(`audit.action.${name}`) : action;
}
