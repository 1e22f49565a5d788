/** Replica badge: the state of a model's files on one node. */

import { f, t } from '../core/i18n.js';
import { badge } from './badges.js';

const KINDS = {
  ready: 'good',
  error: 'bad',
  downloading: 'active',
  verifying: 'active',
  wanted: 'waiting',
  deleting: 'waiting',
};
const ICONS = { ready: 'check', error: 'alert', away: 'alert' };

/** `away`: the node is offline, so nothing on it can be used. */
const displayState = ({ state }, away) => (away && state !== 'deleting' ? 'away' : state);

/** `replica` is a ReplicaView of the API. */
export const replicaText = (replica, away) =>
  t(`replica.${displayState(replica, away)}`, { percent: f.percent(replica.progress) });

export function replicaBadge(replica, away) {
  const name = displayState(replica, away);
  return badge(KINDS[name] ?? '', replicaText(replica, away), ICONS[name]);
}
