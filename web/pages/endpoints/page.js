/** Endpoints: engines that other programs run, and clouds, behind the address of llb. */

import { each, html } from '../../lib/html.js';
import { t } from '../../core/i18n.js';
import { alertBox, emptyState, errorMessage, skeletons } from '../../components/feedback.js';
import { icon } from '../../components/icons.js';
import { placeTabs } from '../../components/tabs.js';
import { createEndpointActions } from './actions.js';
import { askForEndpoint } from './add-endpoint.js';
import { endpointCard } from './endpoint-card.js';
import { createSpend } from './spend.js';
import { createSpillRules } from './spill-rules.js';

export const title = () => t('endpoints.title');

export function open(app) {
  let endpoints = null;
  let error = null;
  // Models of these are shown.
  const opened = new Set();
  let loading = false;
  let seen = app.store.state.endpointChanges;
  const isAdmin = () => app.can('admin');
  const spend = createSpend(app);
  const spillRules = createSpillRules(app, () => endpoints ?? []);

  async function load() {
    // Changes during a request are fetched by the next one.
    if (loading) return;
    loading = true;
    do {
      seen = app.store.state.endpointChanges;
      try {
        ({ endpoints } = await app.api.get('/api/endpoints'));
        error = null;
      } catch (failure) {
        error = failure;
      }
    } while (!error && seen !== app.store.state.endpointChanges);
    loading = false;
    app.requestRender();
  }

  const unsubscribe = app.store.subscribe(({ endpointChanges }) => {
    if (endpointChanges === seen) return;
    load();
    if (isAdmin()) spend.refresh();
  });

  const actions = createEndpointActions(app, load, spend);
  const toggle = (id) => {
    if (!opened.delete(id)) opened.add(id);
    app.requestRender();
  };
  const add = async () => {
    if (await askForEndpoint(app)) await load();
  };

  const addButton = () => html`
    <button type="button" class="button primary" @click=${add}>${icon('plus')}${t('endpoints.add')}</button>`;

  function content(state) {
    if (error) return alertBox(errorMessage(error), retryButton());
    if (!endpoints) return skeletons(1, 'node');
    if (!endpoints.length) return emptyState('nodes', t('endpoints.empty.title'), t('endpoints.empty.text'));
    return html`
      <div class="endpoints">
        ${each(
          endpoints,
          ({ id }) => id,
          (endpoint) =>
            endpointCard(endpoint, {
              models: state.models,
              isOpen: opened.has(endpoint.id),
              toggle: () => toggle(endpoint.id),
              actions: isAdmin() ? actions : null,
              spend: isAdmin() ? spend : null,
            }),
        )}
      </div>
      ${isAdmin() ? spillRules.view(state) : null}`;
  }

  const retryButton = () => html`
    <button type="button" class="button small" @click=${load}>${t('common.try_again')}</button>`;

  load();
  if (isAdmin()) {
    spend.load();
    spillRules.load();
  }

  return {
    close: unsubscribe,
    view: (state) => html`
      <div class="page">
        <div class="page-head">
          <div>
            <h1 tabindex="-1">${t('nav.nodes')}</h1>
            <p class="lead">${t('endpoints.lead')}</p>
          </div>
          ${endpoints && isAdmin() ? addButton() : null}
        </div>
        ${placeTabs('endpoints')}
        <div class="place-panel" id="tab-panel" role="tabpanel" aria-labelledby="tab-endpoints">
          ${content(state)}
        </div>
      </div>`,
  };
}
