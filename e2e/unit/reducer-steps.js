/** Steps of the tests of core/reducer.js. Every state and action is frozen. */

import { initialState, reduce as reduceIt } from '/web/core/reducer.js';
import { frozen } from './runner.js';
import { engine, model, node, replica } from './samples.js';

/** Checks that neither the state nor the action is mutated. */
export const reduce = (state, action) => frozen(reduceIt(frozen(state), frozen(action)));

export const after = (state, ...actions) => actions.reduce(reduce, state);
export const hear = (state, ...events) => reduce(state, { type: 'events', events });
export const models = (...list) => ({ type: 'models', models: list });
export const nodes = (...list) => ({ type: 'nodes', nodes: list });
export const shownOf = (state, id) => state.models.get(id);
export const progressOf = (state, id) => shownOf(state, id).download_progress;

export const signedIn = after(initialState(), { type: 'me', me: { kind: 'session' } });
export const withModels = (...list) => after(signedIn, models(...list), nodes());

/** State with one node and what it holds. */
export const held = (state, engineState = null, id = 'a') => {
  const its = engineState && engine(id, engineState);
  return after(
    signedIn,
    models(model(id, { status: 'Ready', replicas: [replica('n', state, { engine: its })] }), model('b')),
    nodes(node('n', { replicas: [{ model_id: id, state }], engines: its ? [its] : [] })),
  );
};
