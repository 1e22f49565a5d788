/** Models: the hub of what can be pulled, and what is here. */

import { html } from '../../lib/html.js';
import { t } from '../../core/i18n.js';
import { tabList } from '../../components/tabs.js';
import { alertBox, explain, skeletons } from '../../components/feedback.js';
import { makeActions } from './actions.js';
import { openHub } from './hub.js';
import { isHere, openLocal } from './local.js';

export const title = (route) => t(`models.tab.${route.tab}`);

export function open(app, route) {
  const actions = makeActions(app);
  const tabs = { hub: openHub(app, actions), local: openLocal(app, actions) };
  let current = route;

  return {
    update(next) {
      current = next;
    },
    view(state) {
      const here = [...(state.models?.values() ?? [])].filter(isHere).length;
      return html`
        <div class="page">
          <div class="page-head"><h1 tabindex="-1">${t('nav.models')}</h1></div>
          ${tabList(
            t('nav.models'),
            [
              { id: 'hub', path: '/models', name: t('models.tab.hub') },
              { id: 'local', path: '/models/local', name: t('models.tab.local'), count: here },
            ],
            current.tab,
          )}
          <div id="panel" role="tabpanel" aria-labelledby=${`tab-${current.tab}`}>
            ${state.models ? tabs[current.tab].view(state, current) : waiting(app, state)}
          </div>
        </div>`;
    },
  };
}

const waiting = (app, { failed }) =>
  failed
    ? alertBox(
        explain(failed),
        html`<button type="button" class="button small" @click=${app.sync.everything}>${t('common.try_again')}</button>`,
      )
    : skeletons(6);
