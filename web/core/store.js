/** The state of the page: one object, changed by actions only; whoever listens is called once a frame. */

import { initialState, isKnownAction, reduce } from './reducer.js';

/** `schedule` calls back before the next frame; tests hand in their own. */
export function createStore(schedule = (work) => requestAnimationFrame(work)) {
  let state = initialState();
  let waiting = false;
  const listeners = new Set();

  const changed = () => {
    if (waiting) return;
    waiting = true;
    schedule(() => {
      waiting = false;
      for (const listener of [...listeners]) listener(state);
    });
  };

  return {
    get state() {
      return state;
    },
    dispatch(action) {
      if (!isKnownAction(action)) throw new Error(`there is no action '${action.type}'`);
      const next = reduce(state, action);
      if (next === state) return;
      state = next;
      changed();
    },
    /** Have the page drawn although the state is as it was: something of a page's own has changed. */
    requestRender: changed,
    /** Returns the function that ends it. */
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}
