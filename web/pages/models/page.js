/** Models page: the Model Hub and Local tabs. */

import { html } from '../../lib/html.js';
import { t } from '../../core/i18n.js';
import { tabList } from '../../components/tabs.js';
import { alertBox, errorMessage, skeletons } from '../../components/feedback.js';
import { createModelActions } from './actions.js';
import { createHubTab } from './hub.js';
import { isStored, createLocalTab } from './local.js';

export const title = (route) => t(`models.tab.${route.tab}`);

export function open(app, route) {
  const actions = createModelActions(app);
  const tabs = { hub: createHubTab(app, actions), local: createLocalTab(app, actions) };
  let current = route;

  return {
    update(next) {
      current = next;
    },
    view(state) {
      const storedCount = [...(state.models?.values() ?? [])].filter(isStored).length;
      return html`
        <div class="page">
          <div class="page-head"><h1 tabindex="-1">${t('nav.models')}</h1></div>
          ${tabList(
            t('nav.models'),
            [
              { id: 'hub', path: '/models', name: t('models.tab.hub') },
              { id: 'local', path: '/models/local', name: t('models.tab.local'), count: storedCount },
            ],
            current.tab,
          )}
          <div id="tab-panel" role="tabpanel" aria-labelledby=${`tab-${current.tab}`}>
            ${state.models ? tabs[current.tab].view(state, current) : loadingView(app, state)}
          </div>
        </div>`;
    },
  };
}

const loadingView = (app, { loadError }) =>
  loadError
    ? alertBox(
        errorMessage(loadError),
        html`<button
              type="button"
              class="button small"
              @click=${app.sync.reloadAll}
            >${t('common.try_again')}</button>`,
      )
    : skeletons(6);
