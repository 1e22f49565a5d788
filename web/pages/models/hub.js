/** Model Hub tab: the catalogue as cards. The filters are part of the URL. */

import { each, html } from '../../lib/html.js';
import { t } from '../../core/i18n.js';
import { buildUrl } from '../../core/router.js';
import { emptyState } from '../../components/feedback.js';
import { icon } from '../../components/icons.js';
import { modelCard } from './model-card.js';
import { filterOptions, FILTERS, createMatcher, SORT_ORDERS, sortModels } from './filter.js';
import { offlineNodeIds, isMultiNode } from './replica-locations.js';

export function createHubTab(app, actions) {
  const set = (route, name, value) =>
    app.go(buildUrl('/models', { ...route.query, [name]: value }), { replace: true });

  const select = (route, name, values, textOf) => html`
    <select
      class="control ${route.query[name] ? 'set' : ''}"
      aria-label=${t(`hub.filter.${name}`)}
      @change=${(event) => set(route, name, event.target.value)}
    >
      <option value="" .selected=${!route.query[name]}>${t(`hub.any.${name}`)}</option>
      ${values
        .filter(Boolean)
        .map(
          (value) =>
            html`<option value=${value} .selected=${route.query[name] === value}>${textOf(value)}</option>`,
        )}
    </select>`;

  const optionTexts = {
    capability: (value) => t(`capability.${value}`),
    tag: (value) => value,
    status: (value) => t(`status.${value}`),
    fit: (value) => t(`fit.${value}`),
  };

  function filters(route, models) {
    const possible = filterOptions(models);
    return html`
      <search class="filters">
        <label class="search">
          ${icon('search')}<span class="sr-only">${t('hub.search')}</span>
          <input
            class="control"
            type="search"
            placeholder=${t('hub.search')}
            .value=${route.query.q ?? ''}
            @input=${(event) => set(route, 'q', event.target.value)}
          />
        </label>
        ${FILTERS.map((name) =>
          select(route, name, withChosen(possible[name], route.query[name]), optionTexts[name]),
        )}
      </search>`;
  }

  return {
    view(state, route) {
      const models = [...state.models.values()];
      if (!models.length) return emptyState('models', t('hub.empty.title'), t('hub.empty.text'));
      const matches = createMatcher(route.query);
      const found = models.filter(matches).length;
      const filtered = FILTERS.some((name) => route.query[name]) || Boolean(route.query.q);
      const canManage = app.can('models:write');
      const offline = isMultiNode(state.nodes) ? offlineNodeIds(state.nodes).join(' ') : null;
      return html`
        ${filters(route, models)}
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
          <div class="order">${select(route, 'sort', SORT_ORDERS, (value) => t(`hub.sort.${value}`))}</div>
        </div>
        ${found ? null : emptyState('search', t('hub.none.title'), t('hub.none.text'))}
        <div class="cards">
          ${each(
            sortModels(models, route.query.sort),
            (item) => item.model.id,
            // Hidden rather than removed: showing a card again is free, and keeps its input and focus.
            (item) =>
              modelCard(app, actions, item, {
                actionState: actions.of(item.model.id),
                shown: matches(item),
                canManage,
                offline,
              }),
          )}
        </div>`;
    },
  };
}

/** A value from the URL that no longer matches any model is still shown as selected. */
const withChosen = (values, chosen) => (!chosen || values.includes(chosen) ? values : [...values, chosen]);
