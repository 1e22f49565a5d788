/** Requests page: current load, history and usage. */

import { html } from '../../lib/html.js';
import { t } from '../../core/i18n.js';
import { alertBox, errorMessage, skeletons } from '../../components/feedback.js';
import { createCharts } from './charts.js';
import { firstRequest } from './first-request.js';
import { loadedModels } from './loaded-models.js';
import { createRequestLog } from './request-log.js';
import { tiles } from './tiles.js';
import { currentFigures } from './traffic.js';
import { createUsageSection } from './usage.js';

export const title = () => t('nav.requests');

export function open(app, route) {
  const charts = createCharts(app);
  const usage = createUsageSection(app, route);
  const log = createRequestLog(app, route);
  let requestCount = null;

  const reload = () => {
    usage.load();
    log.load();
  };

  // A heartbeat with a higher request count means that the history has grown.
  const unsubscribe = app.store.subscribe(({ traffic }) => {
    const count = [...traffic.values()].reduce((sum, { requests }) => sum + requests, 0);
    if (requestCount !== null && count !== requestCount) reload();
    requestCount = count;
  });

  reload();
  app.sync.loadCharts();
  log.loadKeys();

  function content(state) {
    const figures = currentFigures(state);
    // Those of endpoints are in the history only.
    const hasRequests = figures.requests || figures.active || log.hasRows();
    return html`
      ${tiles(state, figures)}
      <div class="stack">
        ${hasRequests ? charts.view(state) : firstRequest(state)}
        ${hasRequests || figures.slots ? loadedModels(state) : null}
        ${usage.view(state)}
        ${log.view(state)}
      </div>`;
  }

  return {
    update(to) {
      usage.update(to);
      log.update(to);
    },
    close() {
      unsubscribe();
      charts.close();
    },
    view: (state) => html`
      <div class="page">
        <div class="page-head"><h1 tabindex="-1">${t('nav.requests')}</h1></div>
        ${state.nodes && state.models ? content(state) : loadingView(app, state)}
      </div>`,
  };
}

const loadingView = (app, { loadError }) =>
  loadError ? alertBox(errorMessage(loadError), retryButton(app)) : skeletons(4, 'tile');

const retryButton = (app) =>
  html`<button
        type="button"
        class="button small"
        @click=${app.sync.reloadAll}
      >${t('common.try_again')}</button>`;
