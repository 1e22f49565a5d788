/** Figures of nodes and models over time, in steps of equal length. Pure. */

const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;

/** What a chart may show: its length, and the length of its steps, of the rows of its table, of its ticks. */
export const SPANS = {
  recent: { windowMs: 15 * MINUTE_MS, stepMs: 10_000, rowMs: MINUTE_MS, tickMs: 5 * MINUTE_MS },
  hour: { windowMs: HOUR_MS, stepMs: MINUTE_MS, rowMs: 5 * MINUTE_MS, tickMs: 15 * MINUTE_MS },
  day: { windowMs: 24 * HOUR_MS, stepMs: 5 * MINUTE_MS, rowMs: HOUR_MS, tickMs: 6 * HOUR_MS },
};

/** Of these a step has the most, of all others the mean. */
const PEAKS = new Set(['active', 'queued']);

export const MAX_SERIES = 6;

/** Point of the API, with the names and the unit of time of the page. */
export const toPoint = (point) => ({
  at: point.at * 1000,
  tokensPerSecond: point.tokens_per_second,
  active: point.active_requests,
  queued: point.queued,
  memoryBytes: point.memory_bytes,
  cpu: point.cpu_usage,
  gpu: point.gpu_usage,
});

/**
 * Middle of each step of the window that ends with the step of `last`, oldest first. Steps start at round
 * times, so that past values do not change.
 */
export function stepTimes(last, windowMs, stepMs) {
  const begin = Math.floor(last / stepMs) * stepMs + stepMs - windowMs;
  return Array.from({ length: windowMs / stepMs }, (_, at) => begin + (at + 0.5) * stepMs);
}

/** Value of `field` in each step of `times`, null without a point. */
export function stepValues(points, times, field) {
  const stepMs = times[1] - times[0];
  const begin = times[0] - stepMs / 2;
  const groups = times.map(() => []);
  for (const point of points) {
    const value = point[field];
    if (value !== null && value !== undefined) groups[Math.floor((point.at - begin) / stepMs)]?.push(value);
  }
  const valueOf = PEAKS.has(field) ? (group) => Math.max(...group) : mean;
  return groups.map((group) => (group.length ? valueOf(group) : null));
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** Sum of the values of several series in each step; null where none has one. */
export const sumValues = (series) =>
  (series[0] ?? []).map((_, at) =>
    series.reduce((sum, values) => (values[at] === null ? sum : (sum ?? 0) + values[at]), null),
  );

/** The series with the most tokens in the window, and how many are left out: {shown, more}. */
export function topSeries(series, times) {
  const total = ({ points }) => sumOf(stepValues(points, times, 'tokensPerSecond'));
  const active = ({ points }) => sumOf(stepValues(points, times, 'active'));
  const ranked = series
    .map((each) => ({ each, rank: [total(each), active(each)] }))
    .sort((a, b) => b.rank[0] - a.rank[0] || b.rank[1] - a.rank[1])
    .map(({ each }) => each);
  return { shown: ranked.slice(0, MAX_SERIES), more: Math.max(0, ranked.length - MAX_SERIES) };
}

const sumOf = (values) => values.reduce((sum, value) => sum + (value ?? 0), 0);
