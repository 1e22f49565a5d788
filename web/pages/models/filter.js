/** Filtering and sorting of models. Pure. */

export const FILTERS = ['capability', 'tag', 'status', 'fit'];
export const SORT_ORDERS = ['', 'size', 'downloads', 'name'];

/** Search text per model, built once. */
const searchTexts = new WeakMap();

function textOf(model) {
  let text = searchTexts.get(model);
  if (text === undefined) {
    const { id, name, description, repo, tags, quantization, parameter_count: parameters } = model;
    text = [id, name, description, repo, ...tags, quantization, parameters].join(' ').toLowerCase();
    searchTexts.set(model, text);
  }
  return text;
}

/** Predicate for a ModelWithStatus; the query is {q, capability, tag, status, fit}. */
export function createMatcher({ q = '', capability, tag, status, fit }) {
  const words = q.toLowerCase().split(/\s+/).filter(Boolean);
  return (item) =>
    (!capability || item.model.capabilities.includes(capability)) &&
    (!tag || item.model.tags.includes(tag)) &&
    (!status || item.status === status) &&
    (!fit || item.fit.verdict === fit) &&
    words.every((word) => textOf(item.model).includes(word));
}

const comparisons = {
  size: (a, b) => a.model.size_bytes - b.model.size_bytes,
  downloads: (a, b) => (b.hf_stats?.downloads ?? -1) - (a.hf_stats?.downloads ?? -1),
  name: (a, b) => a.model.name.localeCompare(b.model.name),
};

/** `models` sorted by `order`; catalogue order by default. */
export function sortModels(models, order) {
  return Object.hasOwn(comparisons, order ?? '') ? [...models].sort(comparisons[order]) : models;
}

/** Options of each filter: the values that occur, most frequent first. */
export function filterOptions(models) {
  const found = { capability: new Map(), tag: new Map(), status: new Map(), fit: new Map() };
  const count = (filter, value) => found[filter].set(value, (found[filter].get(value) ?? 0) + 1);
  for (const { model, status, fit } of models) {
    model.capabilities.forEach((value) => count('capability', value));
    model.tags.forEach((value) => count('tag', value));
    count('status', status);
    count('fit', fit.verdict);
  }
  return Object.fromEntries(
    FILTERS.map((filter) => [filter, [...found[filter]].sort((a, b) => b[1] - a[1]).map(([value]) => value)]),
  );
}
