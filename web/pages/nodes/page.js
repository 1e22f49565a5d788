/** Nodes page: the machines of this cluster. */

import { each, html } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { alertBox, emptyState, errorMessage, skeletons } from '../../components/feedback.js';
import { icon } from '../../components/icons.js';
import { placeTabs } from '../../components/tabs.js';
import { createNodeActions } from './actions.js';
import { createAddNode } from './add-node.js';
import { nodeCard } from './node-card.js';
import { memoryUsed } from './meters.js';
import { isOnline } from './status.js';

export const title = () => t('nav.nodes');

export function open(app) {
  const actions = createNodeActions(app);
  const addNode = createAddNode(app);
  app.sync.loadCharts();
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
            ${state.nodes ? nodeList(state, nodes, isAdmin ? actions : null) : loadingView(app, state)}
            ${nodes.length === 1 && isAdmin ? addNodeHint() : null}
          </div>
        </div>`;
    },
  };
}

const nodeList = (state, nodes, actions) =>
  nodes.length
    ? html`<div class="nodes">${each(
        nodes,
        ({ id }) => id,
        (node) => nodeCard(state, node, actions?.view(node)),
      )}</div>`
    : emptyState('nodes', t('nodes.empty.title'), t('nodes.empty.text'));

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
