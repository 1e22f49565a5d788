/** Requests: what is being answered now, how it went over the last minutes, and by which models. */

import { html } from '../lib/html.js';
import { t } from '../core/i18n.js';
import { alertBox, explain, skeletons } from '../components/feedback.js';
import { openCharts } from './requests/charts.js';
import { firstRequest } from './requests/first.js';
import { loads } from './requests/loads.js';
import { tiles } from './requests/tiles.js';
import { now } from './requests/traffic.js';

export const title = () => t('nav.requests');

export function open(app) {
  const charts = openCharts(app);

  function content(state) {
    const figures = now(state);
    const asked = figures.requests || figures.active;
    return html`
      ${tiles(state, figures)}
      <div class="stack">
        ${asked ? charts.view(state) : firstRequest(state)}
        ${asked || figures.slots ? loads(state) : null}
      </div>`;
  }

  return {
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
