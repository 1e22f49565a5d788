/** Request history, newest first. The filters are part of the URL. */

import { each, html } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { buildUrl, logsPath } from '../../core/router.js';
import { alertBox, errorMessage } from '../../components/feedback.js';
import { badge, errorCodeText } from '../../components/badges.js';

const PAGE_SIZE = 50;
const FILTERS = ['model', 'key', 'status'];

export function createRequestLog(app, route) {
  let query = route.query;
  let rows = [];
  let nextCursor = null;
  let days = null;
  let error = null;
  let ready = false;
  let keys = [];
  let requestCount = 0;

  const pathOf = (before) =>
    buildUrl('/api/requests', {
      limit: PAGE_SIZE,
      before,
      ...Object.fromEntries(FILTERS.map((name) => [name, query[name]])),
    });

  async function load(before = null) {
    requestCount += 1;
    const requestNumber = requestCount;
    try {
      const page = await app.api.get(pathOf(before));
      if (requestNumber !== requestCount) return;
      rows = before === null ? mergePages(page.requests, rows) : [...rows, ...page.requests];
      // The rows below the first page are kept, so only the last page loaded knows the next cursor.
      if (before !== null || rows.length === page.requests.length) nextCursor = page.next_cursor;
      [days, error, ready] = [page.history_days, null, true];
    } catch (failure) {
      if (requestNumber === requestCount) [error, ready] = [failure, true];
    }
    app.requestRender();
  }

  async function loadKeys() {
    ({ keys } = await app.api.get('/api/keys?order=newest').catch(() => ({ keys: [] })));
    app.requestRender();
  }

  const set = (name, value) => app.go(buildUrl('/requests', { ...query, [name]: value }), { replace: true });

  const select = (name, options) => html`
    <select
      class="control ${query[name] ? 'set' : ''}"
      aria-label=${t(`log.filter.${name}`)}
      @change=${(event) => set(name, event.target.value)}
    >
      <option value="" .selected=${!query[name]}>${t(`log.any.${name}`)}</option>
      ${options.map(
        ([value, text]) => html`<option value=${value} .selected=${query[name] === value}>${text}</option>`,
      )}
    </select>`;

  const filters = (models) => html`
    <div class="buttons log-filters">
      ${select('model', modelOptions(models, query.model))}
      ${select(
        'key',
        keys.map(({ id, name }) => [id, name]),
      )}
      ${select('status', [
        ['ok', t('log.status.ok')],
        ['error', t('log.status.error')],
      ])}
    </div>`;

  function content(models) {
    if (error) return alertBox(errorMessage(error));
    if (!ready) return html`<div class="skeleton log-loading" aria-hidden="true"></div>`;
    if (!rows.length)
      return html`<p class="soft">${t(
        FILTERS.some((name) => query[name]) ? 'log.none_match' : 'log.none',
      )}</p>`;
    // Own nodes and engines cost nothing, and most people have no others.
    const hasCosts = rows.some(
      ({ cost_usd: cost, endpoint_id: endpoint }) => cost || (endpoint && cost === null),
    );
    const columns = columnsOf(hasCosts);
    return html`
      <div class="table-scroll" tabindex="0" role="region" aria-label=${t('log.table')}>
        <table class="table log-table" role="table">
          <thead role="rowgroup">
            <tr role="row">
              ${columns.map(
                ({ name, kind = '' }) => html`
                  <th scope="col" role="columnheader" class=${kind}>${t(`log.${name}`)}</th>`,
              )}
            </tr>
          </thead>
          <tbody role="rowgroup">${each(
            rows,
            ({ id }) => id,
            (entry) => row(entry, columns, { models, maySeeLogs: app.can('admin') }),
          )}</tbody>
        </table>
      </div>
      ${
        nextCursor === null
          ? null
          : html`
              <div>
                <button type="button" class="button small" @click=${() => load(nextCursor)}>
                  ${t('log.older')}
                </button>
              </div>`
      }`;
  }

  return {
    load,
    loadKeys,
    hasRows: () => rows.length > 0,
    update(to) {
      const same = FILTERS.every((name) => query[name] === to.query[name]);
      query = to.query;
      if (same) return;
      [rows, nextCursor, ready] = [[], null, false];
      load();
    },
    view: ({ models }) => html`
      <section class="card request-log" aria-labelledby="log">
        <div class="usage-head"><h2 id="log">${t('log.title')}</h2>${filters(models)}</div>
        ${content(models)}
        ${
          days === null
            ? null
            : html`<p class="soft log-note">${t(days ? 'log.kept' : 'log.not_kept', { count: days })}</p>`
        }
      </section>`,
  };
}

/** Prepends a newer first page to the rows shown. */
function mergePages(first, shown) {
  const last = first.at(-1)?.id;
  return last === undefined ? [] : [...first, ...shown.filter(({ id }) => id < last)];
}

/** A model from the URL that is no longer known is still shown as selected. */
function modelOptions(models, chosen) {
  const known = [...models.values()]
    .filter(({ status }) => status !== 'Available')
    .map(({ model }) => [model.id, model.name]);
  return !chosen || known.some(([id]) => id === chosen) ? known : [...known, [chosen, chosen]];
}

/** Columns of the table. In a narrow one each value has its name next to it, unless it is `plain`. */
const columnsOf = (hasCosts) => [
  { name: 'time', kind: hasCosts ? '' : 'nowrap', plain: true, cell: timeCell },
  { name: 'model', plain: true, cell: modelCell },
  { name: 'who', cell: who },
  { name: 'node', cell: (entry) => entry.node_name ?? '–' },
  { name: 'status', plain: true, cell: statusCell },
  { name: 'prompt', kind: 'number', cell: promptCell },
  { name: 'completion', kind: 'number', cell: (entry) => f.number(entry.completion_tokens) },
  { name: 'first_token', kind: 'number nowrap', cell: (entry) => f.milliseconds(entry.ttft_ms) },
  { name: 'duration', kind: 'number nowrap', cell: (entry) => f.milliseconds(entry.duration_ms) },
  ...(hasCosts
    ? [{ name: 'cost', kind: 'number nowrap', cell: (entry) => f.money(entry.cost_usd) }]
    : []),
];

const row = (entry, columns, context) => html`
  <tr role="row">
    ${columns.map(
      ({ name, kind = '', plain = false, cell }) => html`
        <td
          role="cell"
          class="log-${name} ${kind}"
          data-title=${plain ? null : t(`log.${name}`)}
        >${cell(entry, context)}</td>`,
    )}
  </tr>`;

function timeCell({ time, request_id: request }) {
  return html`<span title=${request}>${f.shortDateTime(time)}</span>`;
}

function modelCell({ model }, { models }) {
  return models.get(model)?.model.name ?? model ?? '–';
}

function statusCell(entry, { maySeeLogs }) {
  return entry.error_code === null ? badge('good', t('log.ok')) : failure(entry, maySeeLogs);
}

function promptCell({ prompt_tokens: prompt, cached_tokens: cached }) {
  return html`${f.number(prompt)}${
    cached ? html` <small class="soft">${t('log.cached', { tokens: f.number(cached) })}</small>` : null
  }`;
}

/** The error, with status and code on request, and a link to the log lines of the request. */
const failure = ({ status, error_code: code, node_id: node, request_id: request }, maySeeLogs) => html`
  <span title=${`${status} ${code}`}>${badge('bad', errorCodeText(code))}</span>
  ${
    maySeeLogs && node && request
      ? html`<a class="log-link" href=${buildUrl(logsPath(node), { q: request })}>${t('log.lines')}</a>`
      : null
  }`;

function who({ key_name: key, user }) {
  if (key) return key;
  return user ? t('usage.session_of', { user }) : t('usage.host');
}
