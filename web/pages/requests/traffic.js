/** Request metrics of all nodes, derived from their heartbeats. Pure. */

/** Current load: running requests, tokens per second, requests since start, slots. */
export function currentFigures({ nodes, traffic }) {
  const online = [...nodes.values()].filter(({ status }) => status === 'online');
  return {
    active: sum(online, (node) => node.active_requests),
    tokensPerSecond: sum(online, ({ id }) => traffic.get(id)?.tokensPerSecond ?? 0),
    requests: sum([...traffic.values()], (figures) => figures.requests),
    // Of the same heartbeat as the running requests: each of them has a slot.
    busy: sum(online, (node) => Math.min(node.active_requests, node.slots)),
    slots: sum(online, (node) => node.slots),
  };
}

/** Time of the most recent data point of any node, or null. */
export const latestTime = (traffic) =>
  [...traffic.values()].reduce(
    (at, { history: trafficHistory }) => Math.max(at ?? 0, trafficHistory.at(-1)?.at ?? 0),
    null,
  );

const sum = (items, valueOf) => items.reduce((total, item) => total + valueOf(item), 0);
