/** Figures of requests over all nodes, out of what each node's heartbeats have told. Pure. */

import { busySlots, isServing } from '../../components/engine-status.js';

export const WINDOW_MS = 15 * 60_000;

/** What goes on now: answers being written, tokens a second, requests since the start, slots. */
export function currentFigures({ nodes, traffic }) {
  const online = [...nodes.values()].filter(({ status }) => status === 'online');
  const serving = online.flatMap(({ engines }) => engines).filter(isServing);
  return {
    active: sum(online, (node) => node.active_requests),
    tokensPerSecond: sum(online, ({ id }) => traffic.get(id)?.tokensPerSecond ?? 0),
    requests: sum([...traffic.values()], (figures) => figures.requests),
    busy: sum(serving, busySlots),
    slots: sum(serving, (engine) => engine.slots),
  };
}

/** The moment of the latest figures of any node, null without one. */
export const latestTime = (traffic) =>
  [...traffic.values()].reduce((at, { history: trafficHistory }) => Math.max(at ?? 0, trafficHistory.at(-1)?.at ?? 0), null);

/**
 * The last 15 minutes in steps of `step` milliseconds, oldest first: [{at, tokensPerSecond, active}]. `at` is the middle
 * of a step, the figures are null where no node said anything: else of each node its mean rate in that step and the most
 * answers at a time, added up. Steps begin at round moments, so that what is past keeps its shape.
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
