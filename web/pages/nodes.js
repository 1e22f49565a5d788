/** Nodes: the machines of this cluster, what they are, what they hold and what they do. */

import { each, html } from '../lib/html.js';
import { f, t } from '../core/i18n.js';
import { alertBox, emptyState, explain, skeletons } from '../components/feedback.js';
import { nodeCard } from './nodes/card.js';
import { memoryUsed } from './nodes/meters.js';

export const title = () => t('nav.nodes');

export function open(app) {
  return {
    view(state) {
      const nodes = [...(state.nodes?.values() ?? [])];
      return html`
        <div class="page">
          <div class="page-head">
            <h1 tabindex="-1">${t('nav.nodes')}</h1>
            ${nodes.length > 1 ? html`<p class="soft">${summary(nodes)}</p>` : null}
          </div>
          ${state.nodes ? list(state, nodes) : waiting(app, state)}
        </div>`;
    },
  };
}

const list = (state, nodes) =>
  nodes.length
    ? html`<div class="nodes">${each(nodes, ({ id }) => id, (node) => nodeCard(state, node))}</div>`
    : emptyState('nodes', t('nodes.empty.title'), t('nodes.empty.text'));

function summary(nodes) {
  const online = nodes.filter(({ status }) => status === 'online');
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
