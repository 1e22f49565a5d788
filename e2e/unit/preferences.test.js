/** core/preferences.js, including browsers that block storage. */

import { applyTheme, readPreference, savePreference, setTheme } from '/web/core/preferences.js';
import { equal, test } from './runner.js';

/** Simulates a browser that blocks storage, or whose storage is full. */
function withStorage(storage, run) {
  const own = Object.getOwnPropertyDescriptor(globalThis, 'localStorage');
  Object.defineProperty(globalThis, 'localStorage', { configurable: true, get: storage });
  try {
    run();
  } finally {
    Object.defineProperty(globalThis, 'localStorage', own);
  }
}

const forbidden = () => {
  throw new DOMException('denied', 'SecurityError');
};

test('what is remembered is recalled, under a name of its own', () => {
  for (const value of ['dark', 0, false, { a: [1] }, '日本語 "x"']) {
    equal(savePreference('x', value), true);
    equal(readPreference('x'), value);
  }
  equal(Object.keys(localStorage), ['llb.x']);
  for (const nothing of [null, undefined]) {
    savePreference('x', 'something');
    equal(savePreference('x', nothing), true);
    equal([readPreference('x', 'fallback'), localStorage.length], ['fallback', 0]);
  }
});

test('what others wrote there does no harm', () => {
  localStorage.setItem('llb.x', '{broken');
  equal(readPreference('x', 'fallback'), 'fallback');
  localStorage.clear();
});

test('a browser that forbids storage forgets', () => {
  withStorage(forbidden, () =>
    equal(
      [readPreference('x', 'fallback'), savePreference('x', 1), savePreference('x', null)],
      ['fallback', false, false],
    ),
  );
  const full = {
    getItem: () => null,
    setItem() {
      throw new DOMException('full', 'QuotaExceededError');
    },
  };
  withStorage(
    () => full,
    () => equal([readPreference('x', 'fallback'), savePreference('x', 1)], ['fallback', false]),
  );
});

test('a theme is applied and remembered; null is that of the system', () => {
  const { dataset } = document.documentElement;
  for (const theme of ['light', 'dark']) {
    setTheme(theme);
    equal([dataset.theme, readPreference('theme')], [theme, theme]);
  }
  setTheme(null);
  equal([dataset.theme, readPreference('theme')], [undefined, null]);
  applyTheme('dark');
  for (const other of ['pink', '', undefined, 7]) {
    applyTheme(other);
    equal(dataset.theme, undefined);
  }
  localStorage.clear();
});
