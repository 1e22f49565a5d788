/** Nodes: the machines of this cluster, what they are, what they hold and what they do. */

import { each, html } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { alertBox, emptyState, explain, skeletons } from '../../components/feedback.js';
import { icon } from '../../components/icons.js';
import { makeActs } from './actions.js';
import { makeAdding } from './add-node.js';
import { nodeCard } from './node-card.js';
import { memoryUsed } from './meters.js';
import { isOnline } from './status.js';

export const title = () => t('nav.nodes');

export function open(app) {
  const acts = makeActs(app);
  const adding = makeAdding(app);
  return {
    view(state) {
      const nodes = [...(state.nodes?.values() ?? [])];
      const can = app.can('admin');
      return html`
        <div class="page">
          <div class="page-head">
            <div>
              <h1 tabindex="-1">${t('nav.nodes')}</h1>
              ${nodes.length > 1 ? html`<p class="lead">${summary(nodes)}</p>` : null}
            </div>
            ${state.nodes && can ? adding.button() : null}
          </div>
          ${state.nodes ? list(state, nodes, can ? acts : null) : waiting(app, state)}
          ${nodes.length === 1 && can ? invitation() : null}
        </div>`;
    },
  };
}

const list = (state, nodes, acts) =>
  nodes.length
    ? html`<div class="nodes">${each(nodes, ({ id }) => id, (node) => nodeCard(state, node, acts?.view(node)))}</div>`
    : emptyState('nodes', t('nodes.empty.title'), t('nodes.empty.text'));

/** For whoever has one machine, and may not know that there can be more. */
const invitation = () => html`
  <div class="nodes-room">
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

const waiting = (app, { failed }) => (failed ? alertBox(explain(failed), againButton(app)) : skeletons(1, 'node'));

const againButton = (app) =>
  html`<button type="button" class="button small" @click=${app.sync.everything}>${t('common.try_again')}</button>`;
