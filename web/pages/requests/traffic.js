/** Request metrics of all nodes, derived from their heartbeats. Pure. */

export const WINDOW_MS = 15 * 60_000;

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

/**
 * The last 15 minutes in steps of `step` milliseconds, oldest first: [{at, tokensPerSecond, active}]. `at` is
 * the middle of a step. Values are null without data; otherwise the sum over all nodes of the mean rate and
 * the peak concurrency within the step. Steps start at round times, so that past values do not change.
 */
export function trafficHistory(traffic, step) {
  const last = latestTime(traffic);
  if (last === null) return [];
  const end = Math.floor(last / step) * step + step;
  const steps = Array.from({ length: WINDOW_MS / step }, (_, at) => ({
    at: end - WINDOW_MS + (at + 0.5) * step,
    tokensPerSecond: null,
    active: null,
  }));
  for (const { history: points } of traffic.values()) {
    const groups = new Map();
    for (const point of points) {
      const index = Math.floor((point.at - end + WINDOW_MS) / step);
      if (index >= 0) groups.set(index, [...(groups.get(index) ?? []), point]);
    }
    for (const [index, group] of groups) {
      const total = steps[index];
      total.tokensPerSecond += sum(group, (point) => point.tokensPerSecond) / group.length;
      total.active += Math.max(...group.map((point) => point.active));
    }
  }
  return steps;
}

const sum = (items, valueOf) => items.reduce((total, item) => total + valueOf(item), 0);
