/** pages/access/key-expiry.js. */

import { expiryState, expiryTime, LIFETIMES, NEVER, ON_A_DATE, today } from '/web/pages/access/key-expiry.js';
import { equal, ok, test } from './runner.js';

test('a key ends after its days, at the end of its date, or never', () => {
  const now = Date.UTC(2026, 10, 21, 12);
  equal(expiryTime(NEVER, '', now), null);
  equal(expiryTime('7', '', now), '2026-11-28T12:00:00.000Z');
  equal(expiryTime(ON_A_DATE, '2027-01-31', now), '2027-01-31T23:59:59.000Z');
  equal(today(now), '2026-11-21');
  ok(LIFETIMES.includes(NEVER) && LIFETIMES.includes(ON_A_DATE));
});

test('a key is valid, ends soon, or has ended', () => {
  const now = Date.UTC(2026, 10, 21);
  const at = (days) => new Date(now + days * 86_400_000).toISOString();
  equal(
    [-1, 0, 0.001, 6.9, 7, 400].map((days) => expiryState(at(days), now)),
    ['expired', 'expired', 'soon', 'soon', 'valid', 'valid'],
  );
});
