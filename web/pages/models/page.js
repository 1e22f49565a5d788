/** Models page: the Model Hub and Local tabs, and the page of one model. */

import { html } from '../../lib/html.js';
import { t } from '../../core/i18n.js';
import { loadStyles } from '../../core/styles.js';
import { tabList } from '../../components/tabs.js';
import { alertBox, errorMessage, skeletons } from '../../components/feedback.js';
import { createModelActions } from './actions.js';
import { createDownloads } from './downloads.js';
import { createHubTab } from './hub.js';
import { isLocal, createLocalTab } from './local.js';

const SEARCH_KEY = '/';

export const title = (route, { models } = {}) =>
  route.tab === 'model'
    ? (models?.get(route.id)?.model.name ?? t('nav.models'))
    : t(`models.tab.${route.tab}`);

/** Module of the page of one model. */
export async function preload() {
  const [module] = await Promise.all([import('./model-page.js'), loadStyles(['model-page'])]);
  return module;
}

export function open(app, route) {
  const actions = createModelActions(app);
  const downloads = createDownloads(app, actions);
  const tabs = {
    hub: createHubTab(app, actions, downloads),
    local: createLocalTab(app, actions, downloads),
  };
  let current = route;
  // Page of one model, once its module is loaded.
  let modelPage = null;

  async function openModel(id) {
    modelPage?.close();
    modelPage = null;
    const { createModelPage } = await preload();
    if (current.id !== id) return;
    modelPage = createModelPage(app, actions, id);
    app.requestRender();
  }

  /** `/` moves to the search, unless the person is typing. */
  function onKey(event) {
    const typing = event.target.closest?.('input, textarea, select, [contenteditable], dialog');
    if (event.key !== SEARCH_KEY || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const search = document.querySelector('main input[type=search]');
    if (!search) return;
    event.preventDefault();
    search.focus();
    search.select();
  }

  document.addEventListener('keydown', onKey);
  if (route.tab === 'model') openModel(route.id);

  const list = (state) => {
    const localCount = [...(state.models?.values() ?? [])].filter(isLocal).length;
    return html`
      <div class="page">
        <div class="page-head with-tabs">
          <h1 tabindex="-1">${t('nav.models')}</h1>
          ${tabList(
            t('nav.models'),
            [
              { id: 'hub', path: '/models', name: t('models.tab.hub') },
              { id: 'local', path: '/models/local', name: t('models.tab.local'), count: localCount },
            ],
            current.tab,
          )}
        </div>
        <div id="tab-panel" role="tabpanel" aria-labelledby=${`tab-${current.tab}`}>
          ${state.models ? tabs[current.tab].view(state, current) : loadingView(app, state)}
        </div>
      </div>`;
  };

  return {
    update(next) {
      const before = current;
      current = next;
      if (next.tab === 'model' && next.id !== before.id) openModel(next.id);
      if (next.tab !== 'model') {
        modelPage?.close();
        modelPage = null;
      }
    },
    close() {
      document.removeEventListener('keydown', onKey);
      modelPage?.close();
      // A page of a model that is still being loaded is not opened.
      current = {};
    },
    view(state) {
      if (current.tab !== 'model') return list(state);
      return html`
        <div class="page model-page">
          ${state.models && modelPage ? modelPage.view(state) : loadingView(app, state)}
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
    : skeletons(12, 'model-skeleton');
