/** core/store.js: one state, listeners called once per frame. */

import { createStore } from '/web/core/store.js';
import { equal, fails, ok, test } from './runner.js';

/** Store whose frames are triggered by the test. */
function makeManual() {
  const due = [];
  const store = createStore((work) => due.push(work));
  return { store, due, frame: () => due.splice(0).forEach((work) => work()) };
}

const showToast = (text) => ({ type: 'showToast', toast: { kind: 'info', text } });

test('listeners are called once a frame with the last state', () => {
  const { store, due, frame } = makeManual();
  const heard = [];
  store.subscribe((state) => heard.push(state));
  for (const text of ['a', 'b', 'c']) store.dispatch(showToast(text));
  equal([heard.length, due.length], [0, 1]);
  frame();
  equal(heard.length, 1);
  ok(heard[0] === store.state);
  equal(heard[0].toasts.length, 3);
  frame();
  equal(heard.length, 1);
});

test('the state is new at once, before any frame', () => {
  const { store } = makeManual();
  store.dispatch(showToast('a'));
  equal(store.state.toasts[0].text, 'a');
});

test('what changes nothing draws nothing', () => {
  const { store, due } = makeManual();
  store.dispatch({ type: 'events', events: [] });
  equal(due.length, 0);
});

test('touch draws although nothing changed, once', () => {
  const { store, due, frame } = makeManual();
  let drawn = 0;
  store.subscribe(() => (drawn += 1));
  store.requestRender();
  store.requestRender();
  store.dispatch(showToast('a'));
  equal(due.length, 1);
  frame();
  equal(drawn, 1);
});

test('a listener may change the state: that is the next frame', () => {
  const { store, due, frame } = makeManual();
  let drawn = 0;
  store.subscribe(() => {
    drawn += 1;
    if (drawn === 1) store.dispatch(showToast('from a listener'));
  });
  store.requestRender();
  frame();
  equal([drawn, due.length], [1, 1]);
  frame();
  equal([drawn, due.length], [2, 0]);
});

test('a listener can be ended, also by another one', () => {
  const { store, frame } = makeManual();
  const heard = [];
  const ends = [];
  ends.push(store.subscribe(() => heard.push('one')));
  ends.push(store.subscribe(() => ends.forEach((end) => end())));
  store.requestRender();
  frame();
  store.requestRender();
  frame();
  equal(heard, ['one']);
});

test('an error of a listener does not stop the frames to come', () => {
  const { store, due, frame } = makeManual();
  const end = store.subscribe(() => {
    throw new Error('broken view');
  });
  store.requestRender();
  try {
    frame();
  } catch {
    // The browser would report it to the console.
  }
  end();
  store.requestRender();
  equal(due.length, 1);
});

test('an action that is not known is refused by its name', async () => {
  const { store } = makeManual();
  await fails(() => store.dispatch({ type: 'modles' }), /no action 'modles'/);
  await fails(() => store.dispatch({ type: 'constructor' }), /no action/);
});

test('frames of the browser are the default', async () => {
  const store = createStore();
  const drawn = new Promise((resolve) => store.subscribe(resolve));
  store.dispatch(showToast('a'));
  equal((await drawn).toasts.length, 1);
});
