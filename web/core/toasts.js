/** What a person is told without having asked: pulls that ended, nodes that came, went or returned. Pure. */

const KEPT = 5;

/**
 * `state` with one notice more: {kind: success | error | info, key, values} or {kind, text}. Of two that are `about` the
 * same thing the older one goes: a node that is back is not away any more.
 */
export function notified(state, notice) {
  const id = state.noticeCount + 1;
  const others = state.notices.filter(({ about }) => !about || about !== notice.about);
  return { ...state, noticeCount: id, notices: [...others, { id, ...notice }].slice(-KEPT) };
}

/** `after`, and what is to be told of the way to it from `before`. */
export function withNotices(before, after) {
  const told = [];
  if (before.models && after.models) told.push(...ofModels(before.models, after.models));
  if (before.nodes && after.nodes) told.push(...ofNodes(before.nodes, after.nodes));
  return told.reduce(notified, withoutRemoved(before, after));
}

function* ofModels(before, after) {
  for (const [id, now] of after) {
    const was = before.get(id);
    if (!was || was.status === now.status) continue;
    const coming = was.status === 'Downloading' || was.status === 'Registered';
    const notice = { values: { name: now.model.name }, about: `model ${id}` };
    if (coming && now.status === 'Ready') yield { kind: 'success', key: 'notice.ready', ...notice };
    if (coming && now.status === 'Error') yield { kind: 'error', key: 'notice.failed', ...notice };
  }
}

function* ofNodes(before, after) {
  for (const [id, now] of after) {
    const was = before.get(id);
    const notice = { values: { name: now.name }, about: `node ${id}` };
    if (was && was.status !== 'offline' && now.status === 'offline') yield { kind: 'error', key: 'notice.offline', ...notice };
    if (was?.status === 'offline' && now.status === 'online') yield { kind: 'success', key: 'notice.online', ...notice };
    if (hasJoined(was, now) && before.size) yield { kind: 'success', key: 'notice.joined', ...notice };
  }
}

/** Whether a node came for the first time; that of the balancer itself is only a little late. */
const hasJoined = (was, { status, reach }) =>
  status === 'online' && (!was || was.status === 'joining') && reach?.way !== 'local';

/** What was told of a node that is removed concerns nobody any more. */
function withoutRemoved({ nodes: before }, after) {
  if (!after.nodes || before === after.nodes) return after;
  const gone = [...(before?.keys() ?? [])].filter((id) => !after.nodes.has(id)).map((id) => `node ${id}`);
  if (!after.notices.some(({ about }) => gone.includes(about))) return after;
  return { ...after, notices: after.notices.filter(({ about }) => !gone.includes(about)) };
}
