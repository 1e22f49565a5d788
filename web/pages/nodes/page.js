/** Nodes page: the machines of this cluster. */

import { each, html } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { readPreference, savePreference } from '../../core/preferences.js';
import { alertBox, emptyState, errorMessage, skeletons } from '../../components/feedback.js';
import { icon } from '../../components/icons.js';
import { placeTabs } from '../../components/tabs.js';
import { createNodeActions } from './actions.js';
import { createAddNode } from './add-node.js';
import { nodeCard } from './node-card.js';
import { nodeTable } from './node-table.js';
import { memoryUsed } from './meters.js';
import { isOnline } from './status.js';

export const title = () => t('nav.nodes');

// More cards than these would be screens of scrolling.
const MAX_CARDS = 6;
const VIEWS = ['table', 'cards'];

export function open(app) {
  const actions = createNodeActions(app);
  const addNode = createAddNode(app);
  // Node whose card is shown below the table.
  let opened = null;
  const open = (id) => {
    opened = id;
    app.requestRender();
  };
  let view = readPreference('nodes', 'table');
  app.sync.loadCharts();

  const viewChoice = () => html`
    <div class="buttons node-views" role="group" aria-label=${t('nodes.view')}>
      ${VIEWS.map(
        (name) => html`
          <button
            type="button"
            class="button quiet small"
            id=${`nodes-as-${name}`}
            aria-pressed=${String(name === view)}
            @click=${() => {
              view = name;
              savePreference('nodes', name);
              app.requestRender();
            }}
          >
            ${t(`nodes.view.${name}`)}
          </button>`,
      )}
    </div>`;

  function list(state, nodes, isAdmin) {
    if (!nodes.length) return emptyState('nodes', t('nodes.empty.title'), t('nodes.empty.text'));
    const isTable = nodes.length > MAX_CARDS && view === 'table';
    const shown = isTable ? nodes.filter(({ id }) => id === opened) : nodes;
    return html`
      ${nodes.length > MAX_CARDS ? viewChoice() : null}
      ${isTable ? nodeTable(state, nodes, opened, open) : null}
      <div class="nodes">
        ${each(
          shown,
          ({ id }) => id,
          (node) => nodeCard(state, node, isAdmin ? actions.view(node) : null),
        )}
      </div>`;
  }

  return {
    view(state) {
      const nodes = [...(state.nodes?.values() ?? [])];
      const isAdmin = app.can('admin');
      return html`
        <div class="page">
          <div class="page-head">
            <div>
              <h1 tabindex="-1">${t('nav.nodes')}</h1>
              ${nodes.length > 1 ? html`<p class="lead">${summary(nodes)}</p>` : null}
            </div>
            ${state.nodes && isAdmin ? addNode.button() : null}
          </div>
          ${placeTabs('nodes')}
          <div class="place-panel" id="tab-panel" role="tabpanel" aria-labelledby="tab-nodes">
            ${state.nodes ? list(state, nodes, isAdmin) : loadingView(app, state)}
            ${nodes.length === 1 && isAdmin ? addNodeHint() : null}
          </div>
        </div>`;
    },
  };
}

/** Tells owners of a single node that they can add more. */
const addNodeHint = () => html`
  <div class="nodes-invite">
    ${icon('nodes', 'large')}
    <div><h2>${t('nodes.room.title')}</h2><p>${t('nodes.room.text')}</p></div>
  </div>`;

function summary(nodes) {
  const online = nodes.filter(isOnline);
  return t('nodes.summary', {
    count: nodes.length,
    online: online.length,
    used: f.bytes(online.reduce((sum, node) => sum + memoryUsed(node), 0)),
    budget: f.bytes(online.reduce((sum, node) => sum + node.memory_budget_bytes, 0)),
  });
}

const loadingView = (app, { loadError }) =>
  loadError ? alertBox(errorMessage(loadError), retryButton(app)) : skeletons(1, 'node');

const retryButton = (app) =>
  html`<button
        type="button"
        class="button small"
        @click=${app.sync.reloadAll}
      >${t('common.try_again')}</button>`;
