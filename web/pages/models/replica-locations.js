/** Locations of a model's replicas, in clusters with more than one node. */

import { html } from '../../lib/html.js';
import { errorTextOf, f, t } from '../../core/i18n.js';
import { icon } from '../../components/icons.js';
import { engineBadge } from '../../components/engine-status.js';
import { replicaBadge, replicaText } from '../../components/replica-badge.js';

// On a card of the hub; Local and Nodes list all of them.
const MAX_NAMED = 3;

/** Ids of the offline nodes. */
export const offlineNodeIds = (nodes) =>
  [...(nodes?.values() ?? [])].filter(({ status }) => status === 'offline').map(({ id }) => id);

export const isMultiNode = (nodes) => (nodes?.size ?? 0) > 1;

/** Always in the same order, whatever the order in which the nodes have reported. */
const byName = (replicas) => [...replicas].sort((a, b) => a.node_name.localeCompare(b.node_name));

/** Line of a hub card. It is present even while empty, so that nothing moves when a download starts. */
export function locationSummary({ replicas }, offline) {
  // The card counts complete replicas below, so pending and failed ones are named first.
  const settled = ({ state, node_id: id }) => state === 'ready' && !offline.includes(id);
  const inOrder = byName(replicas).sort((a, b) => settled(a) - settled(b));
  const named = inOrder.slice(0, replicas.length > MAX_NAMED ? MAX_NAMED - 1 : MAX_NAMED);
  return html`
    <ul class="model-locations" aria-label=${t('local.nodes')}>
      ${named.map((replica) => location(replica, offline.includes(replica.node_id)))}
      ${
        replicas.length > named.length
          ? html`<li>${t('where.more', { count: replicas.length - named.length })}</li>`
          : null
      }
    </ul>`;
}

function location(replica, offline) {
  if (replica.state === 'ready' && !offline) {
    return html`
      <li>
        ${icon('check')}${replica.node_name}<span class="sr-only"> ${replicaText(replica, offline)}</span>
      </li>`;
  }
  const text =
    replica.state === 'downloading' && !offline ? f.percent(replica.progress) : replicaText(replica, offline);
  return html`<li class=${replica.state === 'error' ? 'bad' : ''}>${replica.node_name} <b>${text}</b></li>`;
}

/** All nodes with the state of the replica or its engine, and the path of its files. */
export const locationList = ({ replicas }, offline) => html`
  <ul class="locations wide" aria-label=${t('local.nodes')}>
    ${byName(replicas).map(
      (replica) => html`
        <li>
          <span class="location-node">${replica.node_name}</span>
          ${
            replica.engine
              ? engineBadge([replica.engine])
              : replicaBadge(replica, offline.includes(replica.node_id))
          }
          ${replica.path ? html`<code>${replica.path}</code>` : null}
          ${replica.error ? html`<span class="soft">${errorTextOf(replica)}</span>` : null}
        </li>`,
    )}
  </ul>`;
