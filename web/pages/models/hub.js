/** Model Hub tab: the catalogue as rows in groups. Filters and order are part of the URL. */

import { each, html, memo } from '../../lib/html.js';
import { hasText, t, tagText } from '../../core/i18n.js';
import { buildUrl } from '../../core/router.js';
import { emptyState, note } from '../../components/feedback.js';
import { icon } from '../../components/icons.js';
import { modelRow } from './model-row.js';
import { picksSection } from './picks.js';
import { createProgressPace } from './progress-pace.js';
import { canFold, firstPicks, groupModels, largestMemory } from './groups.js';
import { offlineNodeIds, isMultiNode } from './replica-locations.js';
import {
  createMatcher,
  directionOf,
  filterChips,
  FILTERS,
  nextOrder,
  parseOrder,
  SORT_ORDERS,
  sortModels,
} from './filter.js';

const COLUMNS = SORT_ORDERS.filter((order) => order && order !== 'name');

export function createHubTab(app, actions, downloads) {
  // Whether the models that fit nowhere are shown in full.
  let unfolded = false;
  const groupsBefore = new Map();
  const pace = createProgressPace(app.requestRender);

  const go = (route, changes) =>
    app.go(buildUrl('/models', { ...route.query, ...changes }), { replace: true });

  const chipText = ({ name, value }) => {
    const key = `chip.${name}.${value}`;
    return hasText(key) ? t(key) : tagText(value);
  };

  const chip = (route, { name, value, count }) => {
    const set = route.query[name] === value;
    return html`
      <button
        type="button"
        class="filter-chip"
        aria-pressed=${String(set)}
        @click=${() => go(route, { [name]: set ? '' : value })}
      >
        ${chipText({ name, value })} <span class="filter-count">${count}</span>
      </button>`;
  };

  const toolbar = (route, models) => html`
    <search class="filters">
      <label class="search">
        ${icon('search')}<span class="sr-only">${t('hub.search')}</span>
        <input
          class="control"
          type="search"
          placeholder=${t('hub.search')}
          aria-keyshortcuts="/"
          .value=${route.query.q ?? ''}
          @input=${(event) => go(route, { q: event.target.value })}
        />
      </label>
      <div class="filter-chips" role="group" aria-label=${t('hub.filters')}>
        ${each(
          filterChips(models, route.query),
          ({ name, value }) => `${name} ${value}`,
          (each) => chip(route, each),
        )}
      </div>
    </search>`;

  const heading = (route, column) => {
    const direction = directionOf(route.query.sort, column);
    return html`
      <button
        type="button"
        class="sort-heading model-${column} ${direction ?? ''}"
        aria-pressed=${String(direction !== null)}
        title=${t(direction ? `hub.sorted.${direction}` : 'hub.sort_by')}
        @click=${() => go(route, { sort: nextOrder(route.query.sort, column) })}
      >
        ${t(`hub.column.${column}`)}${direction ? icon(direction === 'ascending' ? 'up' : 'down') : null}
      </button>`;
  };

  const columnHead = (route, models, found) => {
    const filtered = FILTERS.some((name) => route.query[name]) || Boolean(route.query.q);
    return html`
      <div class="model-head">
        <div class="found">
          <span role="status">${t('hub.found', { count: models.length, found })}</span>
          ${
            filtered
              ? html`<button
                    type="button"
                    class="button quiet small"
                    @click=${() => app.go('/models', { replace: true })}
                  >
                ${t('hub.clear')}
              </button>`
              : null
          }
        </div>
        ${COLUMNS.map((column) => heading(route, column))}
        <select
          class="control order"
          aria-label=${t('hub.filter.sort')}
          @change=${(event) => go(route, { sort: event.target.value })}
        >
          ${SORT_ORDERS.map(
            (order) => html`
              <option value=${order} .selected=${parseOrder(route.query.sort).column === order}>
                ${t(order ? `hub.sort.${order}` : 'hub.any.sort')}
              </option>`,
          )}
        </select>
      </div>`;
  };

  /** The group that was shown before, if it has the same items: then it is not drawn again. */
  function keepGroup(found) {
    const before = groupsBefore.get(found.name);
    if (
      before?.items.length === found.items.length &&
      found.items.every((item, at) => item === before.items[at])
    )
      return before;
    groupsBefore.set(found.name, found);
    return found;
  }

  const group = (state, route, { name, items }, rowOf, matches) => {
    const count = items.filter(matches).length;
    const foldable = name === 'too_large' && canFold([...state.models.values()]);
    return html`
      <section
        class="model-group ${name}"
        aria-labelledby=${name === 'all' ? null : `hub-group-${name}`}
        aria-label=${name === 'all' ? t('models.tab.hub') : null}
        ?hidden=${!count}
      >
        ${
          name === 'all'
            ? null
            : html`
              <div class="group-head">
                <h2 id=${`hub-group-${name}`} class="group-title">
                  ${t(`hub.group.${name}`)} <span class="group-count">${count}</span>
                </h2>
                ${name === 'downloads' ? downloads.tools(state) : null}
                ${
                  foldable && !isFiltered(route)
                    ? html`<button
                          type="button"
                          class="button quiet small"
                          aria-expanded=${String(unfolded)}
                          @click=${() => {
                            unfolded = !unfolded;
                            app.requestRender();
                          }}
                        >
                      ${t(unfolded ? 'hub.fold' : 'hub.unfold')}
                    </button>`
                    : null
                }
              </div>`
        }
        <div class="model-rows">
          ${each(
            name === 'downloads' ? downloads.sorted(items) : items,
            (item) => item.model.id,
            (item) => rowOf(item, foldable && !unfolded && !isFiltered(route)),
          )}
        </div>
      </section>`;
  };

  return {
    view(state, route) {
      const models = [...state.models.values()];
      if (!models.length) return emptyState('models', t('hub.empty.title'), t('hub.empty.text'));
      const matches = createMatcher(route.query, models);
      const found = models.filter(matches).length;
      const canManage = app.can('models:write');
      const offline = isMultiNode(state.nodes) ? offlineNodeIds(state.nodes).join(' ') : null;
      const largest = largestMemory(state.nodes);
      const { column } = parseOrder(route.query.sort);
      const picks = canManage && !isFiltered(route) && !column ? firstPicks(models) : [];
      const nextOf = downloads.nextActions(state);
      pace.beginFrame();
      const rowOf = (newest, folded) => {
        const item = pace.itemToDraw(newest);
        return modelRow(app, actions, item, {
          actionState: actions.of(item.model.id),
          // Hidden rather than removed: showing a row again is free, and keeps its focus.
          shown: matches(item),
          canManage,
          offline,
          largest,
          folded,
          next: nextOf(item),
        });
      };
      const groups = column
        ? [{ name: 'all', items: sortModels(models, route.query.sort) }]
        : groupModels(models).map(keepGroup);
      return html`
        ${toolbar(route, models)}
        ${canManage ? null : note(t('model.ask_admin'))}
        ${picks.length ? picksSection(actions, picks) : null}
        ${columnHead(route, models, found)}
        ${found ? null : emptyState('search', t('hub.none.title'), t('hub.none.text'))}
        ${each(
          groups,
          ({ name }) => name,
          (each) =>
            memo(
              // The figures of downloads come from all of the state.
              [
                each.name === 'downloads' ? state : each,
                route,
                actions.changes(),
                canManage,
                offline,
                largest,
                unfolded,
              ],
              () => group(state, route, each, rowOf, matches),
            ),
        )}`;
    },
  };
}

const isFiltered = ({ query }) => FILTERS.some((name) => query[name]) || Boolean(query.q);
