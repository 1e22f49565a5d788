/** Filtering and sorting of models. Pure. */

import { createSearch } from './search.js';

export const FILTERS = ['fit', 'capability', 'tag', 'status'];

/** Columns to sort by, and whether the largest comes first. */
export const SORT_ORDERS = ['', 'name', 'size', 'memory', 'context', 'downloads'];
const DESCENDING = new Set(['context', 'downloads']);

/** Filters that are always offered, in this order. */
const OFFERED = [
  ['fit', 'fits'],
  ['status', 'Ready'],
  ['capability', 'TextGeneration'],
  ['tag', 'coding'],
  ['capability', 'ToolUse'],
  ['capability', 'ImageUnderstanding'],
  ['tag', 'reasoning'],
  ['capability', 'Embedding'],
  ['capability', 'Reranking'],
];

const tests = {
  // A model that needs some layers in RAM runs as well.
  fit: ({ fit }, value) => fit.verdict === value || (value === 'fits' && fit.verdict === 'tight'),
  capability: ({ model }, value) => model.capabilities.includes(value),
  tag: ({ model }, value) => model.tags.includes(value),
  status: ({ status }, value) => status === value,
};

/** Predicate for a ModelWithStatus of `items`; the query is {q, fit, capability, tag, status}. */
export function createMatcher(query, items) {
  const chosen = FILTERS.filter((name) => query[name]);
  const matchesSearch = createSearch(query.q ?? '', items);
  return (item) => chosen.every((name) => tests[name](item, query[name])) && matchesSearch(item);
}

const values = {
  name: ({ model }) => model.name,
  size: ({ model }) => model.size_bytes,
  memory: ({ model }) => model.required_memory_bytes,
  context: ({ model }) => model.context_length ?? 0,
  downloads: ({ hf_stats: stats }) => stats?.downloads ?? -1,
};

const isOrder = (order) => Object.hasOwn(values, order ?? '');

/** `models` sorted by a column, reversed with a `-` before it; in catalogue order without one. */
export function sortModels(models, order) {
  const { column, reversed } = parseOrder(order);
  if (!column) return models;
  const sign = DESCENDING.has(column) === reversed ? 1 : -1;
  const valueOf = values[column];
  const compare =
    column === 'name'
      ? (a, b) => sign * a.model.name.localeCompare(b.model.name)
      : (a, b) => sign * (valueOf(a) - valueOf(b));
  return [...models].sort(compare);
}

/** Order of the URL → {column, reversed}; the column is '' without a valid one. */
export function parseOrder(order) {
  const reversed = order?.startsWith('-') ?? false;
  const column = reversed ? order.slice(1) : order;
  return isOrder(column) ? { column, reversed } : { column: '', reversed: false };
}

/** Order after a click on the heading of `column`: sorted, reversed, and as in the catalogue again. */
export function nextOrder(order, column) {
  const now = parseOrder(order);
  if (now.column !== column) return column;
  return now.reversed ? '' : `-${column}`;
}

/** Direction for `aria-sort`-like marks: ascending, descending, or null. */
export function directionOf(order, column) {
  const now = parseOrder(order);
  if (!column || now.column !== column) return null;
  return DESCENDING.has(column) === now.reversed ? 'ascending' : 'descending';
}

/** Filters to offer as [{name, value, count}]: those that some model passes, and those that are set. */
export function filterChips(models, query) {
  const chips = OFFERED.map(([name, value]) => ({ name, value }));
  for (const name of FILTERS) {
    const value = query[name];
    if (value && !chips.some((chip) => chip.name === name && chip.value === value))
      chips.push({ name, value });
  }
  return chips
    .map((chip) => ({ ...chip, count: models.filter((item) => tests[chip.name](item, chip.value)).length }))
    .filter(({ name, value, count }) => count || query[name] === value);
}
