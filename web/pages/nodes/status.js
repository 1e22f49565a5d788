/** Status of a node: badge, notes and connection. */

import { html } from '../../lib/html.js';
import { f, problemsOf, t } from '../../core/i18n.js';
import { badge } from '../../components/badges.js';
import { note } from '../../components/feedback.js';

export const isOnline = ({ status }) => status === 'online';

/** Whether it is the balancer's own node. */
export const isLocal = ({ reach }) => reach?.way === 'local';

/** Whether a draining node has no request left. */
const isDrained = (node) => node.draining && isOnline(node) && !node.active_requests;

export function nodeBadge(node) {
  const { status, draining } = node;
  if (status === 'offline') return badge('bad', t('node.offline'), 'alert');
  if (status === 'joining') return badge('active', t('node.joining'));
  if (isDrained(node)) return badge('waiting', t('node.drained'), 'check');
  return draining ? badge('waiting', t('node.draining')) : badge('good', t('node.online'), 'check');
}

/** `system`: that of the balancer, or null before it is loaded. */
export function nodeNotes(node, system) {
  const notes = [];
  if (node.status !== 'online') notes.push(t(`node.${node.status}.text`));
  else if (node.reach?.way === 'none') notes.push(t('node.unreachable.text'));
  if (node.draining) notes.push(drainingText(node));
  if (system && node.version && node.version !== system.version) {
    notes.push(t('node.version.text', { version: node.version, own: system.version }));
  }
  // An earlier version reports none.
  if (isOnline(node)) notes.push(...problemsOf(node));
  return notes.map((text) => note(text));
}

function drainingText(node) {
  if (!isOnline(node)) return t('node.draining.away');
  if (!isDrained(node)) return t('node.draining.text', { count: node.active_requests });
  return t(isLocal(node) ? 'node.drained.local' : 'node.drained.text');
}

/** `text` with the dot that separates it from what follows: a line never begins with the dot. */
export const beforeDot = (text) => `${text}\u00a0·`;

/** How requests reach the node, and its latency. */
export function connectionFact({ reach, address, status }) {
  if (!reach || status !== 'online') return null;
  const { way, answer_ms: answer } = reach;
  const text = t(`node.reach.${way}`, { time: f.latency(answer) });
  return html`
    <div>
      <dt>${t('node.reach')}</dt>
      <dd class=${way === 'none' ? 'unusable' : ''}>
        ${address ? html`${beforeDot(text)} <small>${address}</small>` : text}
      </dd>
    </div>`;
}
