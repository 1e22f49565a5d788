/** Requests: what is being answered now, what was, and what it came to. */

import { html } from '../../lib/html.js';
import { t } from '../../core/i18n.js';
import { alertBox, explain, skeletons } from '../../components/feedback.js';
import { openCharts } from './charts.js';
import { firstRequest } from './first-request.js';
import { loads } from './loaded-models.js';
import { openLog } from './request-log.js';
import { tiles } from './tiles.js';
import { now } from './traffic.js';
import { openUsage } from './usage.js';

export const title = () => t('nav.requests');

export function open(app, route) {
  const charts = openCharts(app);
  const usage = openUsage(app);
  const log = openLog(app, route);
  let answered = null;

  const reload = () => {
    usage.load();
    log.load();
  };

  // A heartbeat that counts more requests than the one before: the history has grown.
  const unfollow = app.store.subscribe(({ traffic }) => {
    const count = [...traffic.values()].reduce((sum, { requests }) => sum + requests, 0);
    if (answered !== null && count !== answered) reload();
    answered = count;
  });

  reload();
  log.loadKeys();

  function content(state) {
    const figures = now(state);
    const asked = figures.requests || figures.active;
    return html`
      ${tiles(state, figures)}
      <div class="stack">
        ${asked ? charts.view(state) : firstRequest(state)}
        ${asked || figures.slots ? loads(state) : null}
        ${usage.view(state)}
        ${log.view(state)}
      </div>`;
  }

  return {
    update: log.update,
    close: unfollow,
    view: (state) => html`
      <div class="page">
        <div class="page-head"><h1 tabindex="-1">${t('nav.requests')}</h1></div>
        ${state.nodes && state.models ? content(state) : waiting(app, state)}
      </div>`,
  };
}

const waiting = (app, { failed }) => (failed ? alertBox(explain(failed), againButton(app)) : skeletons(4, 'tile'));

const againButton = (app) =>
  html`<button type="button" class="button small" @click=${app.sync.everything}>${t('common.try_again')}</button>`;
