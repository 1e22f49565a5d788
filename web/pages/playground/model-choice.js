/** Choice of the model, with its capabilities. */

import { readPreference } from '../../core/preferences.js';

const KINDS = { TextGeneration: 'chat', Embedding: 'embedding', Reranking: 'rerank' };

/** `chat`, `embedding` or `rerank`; null for a model that cannot be tried here. */
export const kindOf = (item) => {
  const capability = Object.keys(KINDS).find((each) => item?.model.capabilities.includes(each));
  return capability ? KINDS[capability] : null;
};

export const isChatModel = (item) => kindOf(item) === 'chat';

export const supportsImages = (item) => Boolean(item?.model.capabilities.includes('ImageUnderstanding'));

const readyModels = (state) =>
  [...state.models.values()].filter((item) => item.status === 'Ready' && kindOf(item));

/** Selected model: the requested one, else the last one chosen, else the first that can chat. */
export function selectModel(state, requestedModel) {
  const asked = state.models.get(requestedModel ?? readPreference('model'));
  if (asked && kindOf(asked) && asked.status !== 'Available') return asked;
  const ready = readyModels(state);
  return ready.find(isChatModel) ?? ready[0] ?? null;
}

/**
 * Models to choose from, by what they do and where they are: [{kind, source, items}]. `source` is null for
 * the nodes of this cluster.
 */
export function selectableModels(state, model) {
  const ready = readyModels(state);
  const items = !model || ready.includes(model) ? ready : [model, ...ready];
  const names = new Set(items.map(({ source }) => source?.name ?? null));
  const sources = [null, ...[...names].filter((name) => name !== null).sort()];
  return Object.values(KINDS)
    .flatMap((kind) =>
      sources.map((name) => {
        const found = items.filter((item) => kindOf(item) === kind && (item.source?.name ?? null) === name);
        return { kind, source: found[0]?.source ?? null, items: found };
      }),
    )
    .filter(({ items: found }) => found.length);
}

const enginesOf = (item) => (item?.replicas ?? []).map(({ engine }) => engine).filter(Boolean);

/**
 * Loading progress of the model's engine: {share from 0 to 1 or null}, or null if one is loaded or none is
 * starting.
 */
export function loadingOf(item) {
  const engines = enginesOf(item);
  if (engines.some(({ state }) => state === 'ready' || state === 'busy')) return null;
  const starting = engines.find(({ state }) => state === 'starting');
  return starting ? { share: starting.progress ?? null } : null;
}

/**
 * Tokens that a conversation with a model may have: of its longest engine, or of the one that would be
 * loaded. `of(item)` is null until that is known.
 */
export function createContextLengths(app) {
  // Model id → planned context length, or null while it is asked for.
  const planned = new Map();

  async function ask(id) {
    planned.set(id, null);
    try {
      planned.set(id, (await app.api.get(`/api/models/${encodeURIComponent(id)}/memory`)).context_length);
      app.requestRender();
    } catch {
      // The meter appears once an engine is loaded.
    }
  }

  return {
    of(item) {
      if (item?.status !== 'Ready') return null;
      if (item.isElsewhere) return item.model.context_length;
      const loaded = Math.max(0, ...enginesOf(item).map(({ context_length: length }) => length ?? 0));
      if (loaded) return loaded;
      if (!planned.has(item.model.id)) ask(item.model.id);
      return planned.get(item.model.id);
    },
  };
}
