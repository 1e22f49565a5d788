/** Log of a node: lines of its server and its engines. The filters are part of the URL. */

import { each, html } from '../../lib/html.js';
import { t } from '../../core/i18n.js';
import { buildUrl, logsPath } from '../../core/router.js';
import { alertBox, errorMessage } from '../../components/feedback.js';
import { copyButton } from '../../components/copy-button.js';
import { badge } from '../../components/badges.js';
import { icon } from '../../components/icons.js';
import { createLogFeed } from './log-feed.js';
import { lineView, textOf } from './log-lines.js';

const LEVELS = ['debug', 'info', 'warning', 'error'];
const FILTERS = ['level', 'source', 'q'];
// The page keeps to the end while it is this close to it, in pixels.
const END_PX = 40;

export const title = ({ id }, { nodes }) => t('logs.title', { name: nodes?.get(id)?.name ?? id });

export function open(app, route) {
  let { id, query } = route;
  let feed = createLogFeed(app, id, pickFilters(query));
  // Text in the search box; the URL has it when it was entered. New lines come while somebody types.
  let typed = query.q ?? '';

  const set = (name, value) => app.go(buildUrl(logsPath(id), { ...query, [name]: value }), { replace: true });

  const filters = () => html`
    <div class="buttons log-filters" role="group" aria-label=${t('logs.filters')}>
      <select
        class="control ${query.level ? 'set' : ''}"
        aria-label=${t('logs.level')}
        @change=${(event) => set('level', event.target.value)}
      >
        <option value="" .selected=${!query.level}>${t('logs.level.any')}</option>
        ${LEVELS.slice(1).map(
          (level) => html`
            <option value=${level} .selected=${query.level === level}>${t(`logs.level.${level}`)}</option>`,
        )}
      </select>
      <select
        class="control ${query.source ? 'set' : ''}"
        aria-label=${t('logs.source')}
        @change=${(event) => set('source', event.target.value)}
      >
        <option value="" .selected=${!query.source}>${t('logs.source.any')}</option>
        ${sourceOptions(feed.sources, query.source).map(
          (source) => html`
            <option value=${source} .selected=${query.source === source}>${sourceName(source)}</option>`,
        )}
      </select>
      <input
        class="control"
        type="search"
        placeholder=${t('logs.search')}
        aria-label=${t('logs.search')}
        maxlength="200"
        .value=${typed}
        @input=${(event) => {
          typed = event.target.value;
        }}
        @change=${(event) => set('q', event.target.value.trim())}
      />
      ${copyButton(() => feed.lines.map(textOf).join('\n'), t('logs.copy'))}
    </div>`;

  function lines() {
    if (feed.error) return alertBox(errorMessage(feed.error), retryButton());
    if (!feed.ready) return html`<div class="skeleton logs-loading" aria-hidden="true"></div>`;
    if (!feed.lines.length) {
      const isFiltered = FILTERS.some((name) => query[name]);
      return html`<p class="soft">${t(isFiltered ? 'logs.none_match' : 'logs.none')}</p>`;
    }
    return html`
      <div class="log-lines" tabindex="0" role="region" aria-label=${t('logs.lines')} @scroll=${onScroll}>
        <div>
          ${each(
            feed.lines,
            ({ seq }) => seq,
            (line) => lineView(line, sourceName),
          )}
        </div>
      </div>`;
  }

  // The style sheet lays the lines out from the end, where the scroll position is 0.
  const onScroll = ({ target }) => feed.setFollowing(Math.abs(target.scrollTop) < END_PX);

  const retryButton = () => html`
    <button type="button" class="button small" @click=${() => feed.start()}>
      ${t('common.try_again')}
    </button>`;

  feed.start();

  return {
    close: () => feed.close(),
    update(to) {
      const same = to.id === id && FILTERS.every((name) => query[name] === to.query[name]);
      if (to.query.q !== query.q) typed = to.query.q ?? '';
      ({ id, query } = to);
      if (same) return;
      feed.close();
      feed = createLogFeed(app, id, pickFilters(query));
      feed.start();
    },
    view: ({ nodes }) => html`
      <div class="page logs-page">
        <div class="page-head">
          <div>
            <p class="back"><a href="/nodes">${icon('back')}${t('nav.nodes')}</a></p>
            <h1 tabindex="-1">${title({ id }, { nodes })}</h1>
          </div>
          ${feed.isFollowing ? badge('good', t('logs.live')) : badge('neutral', t('logs.paused'))}
        </div>
        ${filters()} ${lines()}
        <p class="soft log-note">${t('logs.note')}</p>
      </div>`,
  };
}

const pickFilters = (query) => Object.fromEntries(FILTERS.map((name) => [name, query[name]]));

const sourceName = (source) => (source === 'server' ? t('logs.source.server') : source);

/** A source from the URL that has no lines is still shown as selected. */
const sourceOptions = (sources, chosen) =>
  !chosen || sources.includes(chosen) ? sources : [...sources, chosen];
