/** Groups of the Model Hub: what a person asks first. Pure. */

// Required memory of small and of medium models, in bytes.
const SMALL_BYTES = 4e9;
const MEDIUM_BYTES = 12e9;
// A short list needs neither recommendations nor folding.
const MIN_MODELS = 8;

export const GROUPS = ['downloads', 'cluster', 'small', 'medium', 'large', 'too_large'];

/** Whether bytes of a cancelled download are kept. */
export const isPaused = ({ status, partial }) => status === 'Available' && Boolean(partial);

const IN_DOWNLOADS = new Set(['Registered', 'Downloading', 'Error']);

/** Whether a model is on its way: queued, downloading, paused or failed. */
export const isDownload = (item) => IN_DOWNLOADS.has(item.status) || isPaused(item);

export function groupOf(item) {
  if (isDownload(item)) return 'downloads';
  if (item.status === 'Ready') return 'cluster';
  if (item.fit.verdict === 'too_large') return 'too_large';
  const bytes = item.model.required_memory_bytes;
  if (bytes <= SMALL_BYTES) return 'small';
  return bytes <= MEDIUM_BYTES ? 'medium' : 'large';
}

/** Groups of `models` in order, without empty ones: [{name, items}]. */
export function groupModels(models) {
  const found = new Map(GROUPS.map((name) => [name, []]));
  for (const item of models) found.get(groupOf(item)).push(item);
  return GROUPS.map((name) => ({ name, items: found.get(name) })).filter(({ items }) => items.length);
}

export const canFold = (models) => models.length >= MIN_MODELS;

/** Largest memory that a node offers, which the bars of all models are relative to; null without a node. */
export const largestMemory = (nodes) =>
  [...(nodes?.values() ?? [])].reduce(
    (most, { status, memory_budget_bytes: bytes }) =>
      status === 'online' ? Math.max(most ?? 0, bytes) : most,
    null,
  );

/**
 * First picks while nothing is pulled: [{reason, item}] of different models. `try` answers soonest, `best` is
 * the largest that fits, `code` the largest for code that leaves half of the memory free. Models made for
 * code, whose first tag it is, come before others that can write it.
 */
export function firstPicks(models) {
  if (!canFold(models) || models.some((item) => item.status !== 'Available' || isPaused(item))) return [];
  const runs = models.filter(({ model, fit }) => isChat(model) && RUNS.has(fit.verdict));
  const bytesOf = ({ model }) => model.required_memory_bytes;
  const picked = [];
  const pick = (reason, candidates, better) => {
    const free = candidates.filter((item) => !picked.some((each) => each.item === item));
    if (free.length)
      picked.push({ reason, item: free.reduce((best, item) => (better(item, best) ? item : best)) });
  };
  const larger = (a, b) => bytesOf(a) > bytesOf(b);
  pick('try', runs, (a, b) => bytesOf(a) < bytesOf(b));
  pick('best', runs.filter(isGeneral), larger);
  pick(
    'code',
    runs.filter(
      ({ model, fit }) =>
        model.tags.includes('coding') && model.required_memory_bytes <= fit.available_bytes / 2,
    ),
    (a, b) => (isForCode(a) === isForCode(b) ? larger(a, b) : isForCode(a)),
  );
  return picked;
}

const RUNS = new Set(['fits', 'tight']);
// Made for one purpose, or slow for a first question.
const SPECIAL_TAGS = new Set(['agents', 'reasoning']);

const isForCode = ({ model }) => model.tags[0] === 'coding';

const isGeneral = ({ model }) =>
  model.tags.includes('chat') && !model.tags.some((tag) => SPECIAL_TAGS.has(tag));

/** Whether it can be used in the Playground. */
export const isChat = (model) => model.capabilities.includes('TextGeneration');

/** Whether the Playground has something for the model. */
export const canTry = (model) =>
  ['TextGeneration', 'Embedding', 'Reranking'].some((each) => model.capabilities.includes(each));

// --- the Local tab ---------------------------------------------------------------------------------
/** `''` is the order of the catalogue. */
export const LOCAL_ORDERS = ['', 'size', 'used'];

/** Bytes on the disks of all nodes together. */
export const diskBytes = ({ replicas }) =>
  replicas
    .filter(({ state }) => state === 'ready' || state === 'deleting')
    .reduce((total, { size_bytes: bytes }) => total + bytes, 0);

/** Time of the last use in Unix seconds; 0 if it was never used. */
export const lastUsed = ({ replicas }) => Math.max(0, ...replicas.map(({ last_used: at }) => at ?? 0));

const comparisons = {
  size: (a, b) => diskBytes(b) - diskBytes(a),
  // The least recently used first, the largest of equal ones.
  used: (a, b) => lastUsed(a) - lastUsed(b) || diskBytes(b) - diskBytes(a),
};

/** `items` in the order `order`; unknown ones leave it as it is. */
export const sortLocal = (items, order) =>
  Object.hasOwn(comparisons, order ?? '') ? [...items].sort(comparisons[order]) : items;
