/** Tree of the messages of a conversation: versions of a message have the same parent. Pure. */

/** Messages from the first to the one with `leafId`. */
export function pathTo(messages, leafId) {
  const byId = new Map(messages.map((message) => [message.id, message]));
  const path = [];
  const seen = new Set();
  for (
    let message = byId.get(leafId);
    message && !seen.has(message.id);
    message = byId.get(message.parent_id)
  ) {
    seen.add(message.id);
    path.unshift(message);
  }
  return path;
}

/** Messages that stand for each other: same parent, same role, the oldest first. */
export const versionsOf = (messages, { parent_id: parentId, role }) =>
  messages.filter((each) => each.parent_id === parentId && each.role === role);

/** Id of the end of the newest continuation of a message; `id` null: of the whole conversation. */
export function newestLeaf(messages, id = null) {
  const newestChild = new Map();
  for (const message of messages) newestChild.set(message.parent_id, message.id);
  const seen = new Set();
  let leaf = id;
  while (newestChild.has(leaf) && !seen.has(leaf)) {
    seen.add(leaf);
    leaf = newestChild.get(leaf);
  }
  return leaf;
}

/** Messages without the one with `id`; its replies follow its parent. */
export function withoutMessage(messages, id) {
  const parentId = messages.find((message) => message.id === id)?.parent_id ?? null;
  return messages
    .filter((message) => message.id !== id)
    .map((message) => (message.parent_id === id ? { ...message, parent_id: parentId } : message));
}

/**
 * The server's messages, and those that only this page has. A message for which `keeps(id)` holds stays the
 * same object: it is being generated here.
 */
export function mergeMessages(local, remote, keeps) {
  const known = new Map(local.map((message) => [message.id, message]));
  const merged = remote.map((message) => (keeps(message.id) ? (known.get(message.id) ?? message) : message));
  const ids = new Set(remote.map(({ id }) => id));
  return [...merged, ...local.filter(({ id, unsaved }) => !ids.has(id) && (unsaved || keeps(id)))];
}

/** Leaf to show: the present one with what was added below it, else the given one, else the newest. */
export function leafAfterMerge(messages, current, given) {
  const has = (id) => messages.some((message) => message.id === id);
  if (current && has(current)) return newestLeaf(messages, current);
  return given && has(given) ? newestLeaf(messages, given) : newestLeaf(messages);
}
