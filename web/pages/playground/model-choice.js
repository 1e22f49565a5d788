/** Choice of the chat model, and what it can do. */

import { readPreference } from '../../core/preferences.js';

const isChatModel = ({ model }) => model.capabilities.includes('TextGeneration');

export const supportsImages = (item) => Boolean(item?.model.capabilities.includes('ImageUnderstanding'));

const readyChatModels = (state) =>
  [...state.models.values()].filter((item) => item.status === 'Ready' && isChatModel(item));

/** Selected model: the requested one, else the last one chosen, else the first that is Ready. */
export function selectModel(state, requestedModel) {
  const asked = state.models.get(requestedModel ?? readPreference('model'));
  if (asked && isChatModel(asked) && asked.status !== 'Available') return asked;
  return readyChatModels(state)[0] ?? null;
}

export const selectableModels = (state, model) => {
  const ready = readyChatModels(state);
  return !model || ready.includes(model) ? ready : [model, ...ready];
};

/**
 * Loading progress of the model's engine: {share from 0 to 1 or null}, or null if one is loaded or none is
 * starting.
 */
export function loadingOf(item) {
  const engines = (item?.replicas ?? []).map(({ engine }) => engine).filter(Boolean);
  if (engines.some(({ state }) => state === 'ready' || state === 'busy')) return null;
  const starting = engines.find(({ state }) => state === 'starting');
  return starting ? { share: starting.progress ?? null } : null;
}
