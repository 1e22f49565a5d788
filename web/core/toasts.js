/**
 * Toasts derived from state changes: downloads that ended, nodes that joined, went offline or came back.
 * Pure.
 */

import { modelPath } from './router.js';

const MAX_TOASTS = 5;

export const UNDER_WAY = new Set(['Registered', 'Downloading']);
const ENDED = new Set(['Ready', 'Error']);

/**
 * Whether a pull has ended between two states of a model. A small one begins and ends between two frames:
 * then only the reducer has seen it under way, and noted `pulled`.
 */
export const hasEndedPull = (before, now) =>
  before.status !== now.status &&
  ENDED.has(now.status) &&
  (UNDER_WAY.has(before.status) || now.pulled === true);

/**
 * `state` with one more toast: {kind: success | error | info, key, values} or {kind, text}, and `href` where
 * there is more to see. A new toast replaces an older one with the same `about`: a node that is back is no
 * longer offline.
 */
export function addToast(state, toast) {
  const id = state.toastCount + 1;
  const others = state.toasts.filter(({ about }) => !about || about !== toast.about);
  return { ...state, toastCount: id, toasts: [...others, { id, ...toast }].slice(-MAX_TOASTS) };
}

/** `after` with the toasts for the change from `before`. */
export function withToasts(before, after) {
  const messages = [];
  if (before.models && after.models) messages.push(...modelToasts(before.models, after.models));
  if (before.nodes && after.nodes) messages.push(...nodeToasts(before.nodes, after.nodes));
  return messages.reduce(addToast, dropRemovedNodes(before, after));
}

function* modelToasts(before, after) {
  for (const [id, now] of after) {
    const previous = before.get(id);
    if (!previous || !hasEndedPull(previous, now)) continue;
    const toast = { values: { name: now.model.name }, about: `model ${id}`, href: modelPath(id) };
    if (now.status === 'Ready') yield { kind: 'success', key: 'toast.ready', ...toast };
    else if (!now.error) yield { kind: 'error', key: 'toast.failed', ...toast };
    else {
      const values = { ...toast.values, error: now.error, error_code: now.error_code };
      yield { kind: 'error', key: 'toast.failed_because', ...toast, values };
    }
  }
}

function* nodeToasts(before, after) {
  for (const [id, now] of after) {
    const previous = before.get(id);
    const toast = { values: { name: now.name }, about: `node ${id}` };
    if (previous && previous.status !== 'offline' && now.status === 'offline')
      yield { kind: 'error', key: 'toast.offline', ...toast };
    if (previous?.status === 'offline' && now.status === 'online')
      yield { kind: 'success', key: 'toast.online', ...toast };
    if (hasJoined(previous, now) && before.size) yield { kind: 'success', key: 'toast.joined', ...toast };
  }
}

/** Whether a node has joined for the first time. The balancer's own node is merely late at start. */
const hasJoined = (previous, { status, reach }) =>
  status === 'online' && (!previous || previous.status === 'joining') && reach?.way !== 'local';

/** Drops the toasts of removed nodes. */
function dropRemovedNodes({ nodes: before }, after) {
  if (!after.nodes || before === after.nodes) return after;
  const gone = [...(before?.keys() ?? [])].filter((id) => !after.nodes.has(id)).map((id) => `node ${id}`);
  if (!after.toasts.some(({ about }) => gone.includes(about))) return after;
  return { ...after, toasts: after.toasts.filter(({ about }) => !gone.includes(about)) };
}
