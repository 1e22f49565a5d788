/** lib/keep-equal.js: what a response does not change stays the same object. */

import { keepEqual } from '/web/lib/keep-equal.js';
import { equal, test } from './runner.js';

test('what is equal is the object of before, and only that', () => {
  const before = {
    id: 'a',
    tags: ['x', 'y'],
    fit: { verdict: 'fits', bytes: 1 },
    parts: [{ n: 1 }, { n: 2 }],
  };
  const copy = () => structuredClone(before);
  equal(keepEqual(before, copy()) === before, true);
  const changed = { ...copy(), fit: { verdict: 'tight', bytes: 1 }, parts: [{ n: 1 }, { n: 3 }] };
  const kept = keepEqual(before, changed);
  equal(kept, changed);
  equal([kept === before, kept.tags === before.tags, kept.fit === before.fit], [false, true, false]);
  equal([kept.parts[0] === before.parts[0], kept.parts[1] === before.parts[1]], [true, false]);
});

test('other fields, other lengths, other kinds, and nothing before', () => {
  const rows = [
    [{ a: 1 }, { a: 1, b: undefined }],
    [{ a: 1, b: 2 }, { a: 1 }],
    [[1, 2], [1]],
    [[1], [1, 2]],
    [[], {}],
    [{ a: null }, { a: {} }],
    [undefined, { a: 1 }],
    [null, null],
  ];
  for (const [before, now] of rows) equal(keepEqual(before, now), now);
});
