/** pages/requests/usage-range.js. */

import { defaultDates, MAX_DAYS, usageRange } from '/web/pages/requests/usage-range.js';
import { equal, test } from './runner.js';

const NOW = Date.UTC(2026, 0, 31, 15);
const custom = (from, to, bucket = 'day') => usageRange({ period: 'custom', from, to }, bucket, NOW);

test('both days of a custom period are part of it', () => {
  const { from, to, problem } = custom('2026-01-02', '2026-01-03');
  equal([from, to, problem], ['2026-01-02T00:00:00.000Z', '2026-01-04T00:00:00.000Z', null]);
  equal(custom('2026-01-02', '2026-01-02').problem, null, 'one day');
});

test('dates that are missing, wrong or in the wrong order ask for nothing', () => {
  const wrong = [['', '2026-01-01'], [undefined, undefined], ['2026-01-02', '2026-01-01'], ['2026-13-01', '2026-13-02']];
  equal(wrong.map(([from, to]) => custom(from, to).problem), ['dates', 'dates', 'dates', 'dates']);
  equal(custom('1990-01-01', '2026-01-01').problem, 'too_long');
  equal(MAX_DAYS > 1000, true);
});

test('a long period has days instead of hours', () => {
  equal(custom('2026-01-01', '2026-01-31', 'hour').bucket, 'hour');
  equal(custom('2026-01-01', '2026-02-01', 'hour').bucket, 'day');
});

test('other periods end today; without one the server chooses', () => {
  const { from, to } = usageRange({ period: '30' }, 'day', NOW);
  equal([from, to], ['2026-01-02T00:00:00.000Z', '2026-02-01T00:00:00.000Z']);
  for (const period of [undefined, '', 'never'])
    equal(usageRange({ period }, 'hour', NOW), { period: '', from: null, to: null, bucket: 'hour', problem: null });
  equal(defaultDates(NOW), { from: '2026-01-25', to: '2026-01-31' });
});
