/** On which nodes a model is, or is going to be: for clusters of more than one. */

import { html } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { icon } from '../../components/icons.js';
import { engineBadge } from '../../components/engine-status.js';
import { replicaBadge, replicaText } from '../../components/replica-badge.js';

const MAX_NAMED = 3; // on a card of the hub; Local and Nodes name them all

/** The ids of the nodes that cannot be reached. */
export const offlineNodeIds = (nodes) => [...(nodes?.values() ?? [])].filter(({ status }) => status === 'offline').map(({ id }) => id);

export const isMultiNode = (nodes) => (nodes?.size ?? 0) > 1;

/** A line of a hub's card. It is there also while it is empty, so that nothing moves when a pull begins. */
export function locationSummary({ replicas }, offline) {
  // Who has it is also counted below; what is still to come, or does not, is named first.
  const settled = ({ state, node_id: id }) => state === 'ready' && !offline.includes(id);
  const inOrder = [...replicas].sort((a, b) => settled(a) - settled(b));
  const named = inOrder.slice(0, replicas.length > MAX_NAMED ? MAX_NAMED - 1 : MAX_NAMED);
  return html`
    <ul class="model-locations" aria-label=${t('local.nodes')}>
      ${named.map((replica) => location(replica, offline.includes(replica.node_id)))}
      ${replicas.length > named.length ? html`<li>${t('where.more', { count: replicas.length - named.length })}</li>` : null}
    </ul>`;
}

function location(replica, offline) {
  if (replica.state === 'ready' && !offline) {
    return html`<li>${icon('check')}${replica.node_name}<span class="sr-only"> ${replicaText(replica, offline)}</span></li>`;
  }
  const text = replica.state === 'downloading' && !offline ? f.percent(replica.progress) : replicaText(replica, offline);
  return html`<li class=${replica.state === 'error' ? 'bad' : ''}>${replica.node_name} <b>${text}</b></li>`;
}

/** Every node with what became of the model there, or of the engine that has it in memory, and where its files are. */
export const locationList = ({ replicas }, offline) => html`
  <ul class="locations wide" aria-label=${t('local.nodes')}>
    ${replicas.map(
      (replica) => html`
        <li>
          <span class="location-node">${replica.node_name}</span>
          ${replica.engine ? engineBadge([replica.engine]) : replicaBadge(replica, offline.includes(replica.node_id))}
          ${replica.path ? html`<code>${replica.path}</code>` : null}
          ${replica.error ? html`<span class="soft">${replica.error}</span>` : null}
        </li>`,
    )}
  </ul>`;
