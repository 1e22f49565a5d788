/** Store: holds the state of the page, changes it by actions, and calls its listeners once per frame. */

import { initialState, isKnownAction, reduce } from './reducer.js';

/** `schedule` calls back before the next frame; tests pass their own. */
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
    /** Renders the page even though the state has not changed, e.g. because a page's local state has. */
    requestRender: changed,
    /** Returns the function that unsubscribes. */
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}
