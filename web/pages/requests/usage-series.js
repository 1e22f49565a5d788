/** Usage totals as series of a column chart: the largest series, and the others combined. Pure. */

const BUCKET_MS = { hour: 3_600_000, day: 86_400_000 };
export const MAX_SERIES = 5;

const MEASURES = {
  requests: (entry) => entry.requests,
  tokens: (entry) => (entry.prompt_tokens ?? 0) + (entry.completion_tokens ?? 0),
  // Without a known cost there is none to show.
  cost: (entry) => entry.cost_usd ?? 0,
};

// Two keys can have the same name; sessions have no key and are told apart by user.
const idOf = ({ key, user_id: user }) => JSON.stringify([key, user]);

/**
 * Response of `GET /api/usage` → {stacks: [{at, total, parts: [{value, series}]}], series: [{name, total}],
 * from, to, width, maximum, total, bucket}. Every hour or day of the range has a column. Series are sorted by
 * size; a last series with the name null combines all others.
 */
export function usageSeries({ bucket, from, to, usage }, measure, nameOf) {
  const width = BUCKET_MS[bucket];
  const valueOf = MEASURES[measure];
  const found = new Map();
  for (const entry of usage) {
    const id = idOf(entry);
    const one = found.get(id) ?? { id, name: nameOf(entry), total: 0 };
    found.set(id, { ...one, total: one.total + valueOf(entry) });
  }
  const ranked = [...found.values()].filter(({ total }) => total > 0).sort((a, b) => b.total - a.total);
  const kept = ranked.length > MAX_SERIES + 1 ? ranked.slice(0, MAX_SERIES) : ranked;
  const rest = ranked.slice(kept.length).reduce((sum, { total }) => sum + total, 0);
  const series = kept.map(({ name, total }) => ({ name, total }));
  if (rest) series.push({ name: null, total: rest });

  const first = Math.floor(Date.parse(from) / width) * width;
  const count = Math.max(1, Math.ceil((Date.parse(to) - first) / width));
  const stacks = Array.from({ length: count }, (_, at) => ({
    at: first + at * width,
    total: 0,
    parts: series.map((_each, index) => ({ value: 0, series: index })),
  }));
  const places = new Map(kept.map(({ id }, index) => [id, index]));
  for (const entry of usage) {
    const stack = stacks[Math.floor((Date.parse(entry.bucket) - first) / width)];
    const part = stack?.parts[places.get(idOf(entry)) ?? series.length - 1];
    if (!part) continue;
    part.value += valueOf(entry);
    stack.total += valueOf(entry);
  }
  return {
    stacks,
    series,
    from: first,
    to: first + count * width,
    width,
    maximum: Math.max(...stacks.map(({ total }) => total)),
    total: stacks.reduce((sum, { total }) => sum + total, 0),
    bucket,
  };
}
