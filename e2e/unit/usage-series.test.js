/** pages/requests/usage-series.js. */

import { usageSeries, MAX_SERIES } from '/web/pages/requests/usage-series.js';
import { equal, test } from './runner.js';

const DAY = 86_400_000;
const DAYS = [0, 1, 2].map((day) => new Date(Date.UTC(2026, 0, 10 + day)).toISOString());

const entry = (day, key, requests, more = {}) => ({
  bucket: DAYS[day],
  key,
  name: key,
  user_id: null,
  user: null,
  requests,
  prompt_tokens: requests * 10,
  completion_tokens: requests,
  ...more,
});

const answer = (...usage) => ({ bucket: 'day', from: DAYS[0], to: '2026-01-12T09:30:00.000Z', usage });
const byName = ({ name }) => name;

test('every day of the range has a column, also without use', () => {
  const { stacks, from, to, width } = usageSeries(answer(entry(1, 'a', 2)), 'requests', byName);
  equal(
    stacks.map(({ at, total }) => [at - from, total]),
    [
      [0, 0],
      [DAY, 2],
      [2 * DAY, 0],
    ],
  );
  equal([to - from, width], [3 * DAY, DAY]);
});

test('tokens are those of the prompt and of the answer', () => {
  equal(usageSeries(answer(entry(0, 'a', 3)), 'tokens', byName).total, 33);
  const unknown = entry(0, 'a', 3, { prompt_tokens: null, completion_tokens: null });
  equal(usageSeries(answer(unknown), 'tokens', byName), { ...usageSeries(answer(), 'tokens', byName) });
});

test('the largest series come first, and the rest is one', () => {
  const many = Array.from({ length: MAX_SERIES + 3 }, (_, at) => entry(2, `m${at}`, at + 1));
  const { series, stacks, maximum, total } = usageSeries(answer(...many), 'requests', byName);
  equal(series.length, MAX_SERIES + 1);
  equal(series[0], { name: `m${MAX_SERIES + 2}`, total: MAX_SERIES + 3 });
  equal(series.at(-1), { name: null, total: 1 + 2 + 3 });
  equal(stacks[2].parts.at(-1), { value: 6, series: MAX_SERIES });
  equal(maximum, total);
});

test('two keys of one name stay two series, and sessions are told apart by their person', () => {
  const usage = [
    entry(0, 'k1', 1, { name: 'laptop' }),
    entry(0, 'k2', 2, { name: 'laptop' }),
    entry(0, null, 3, { user_id: 'u1', name: null }),
    entry(0, null, 4, { user_id: 'u2', name: null }),
  ];
  equal(
    usageSeries(answer(...usage), 'requests', ({ name }) => name ?? 'session').series.map(
      ({ total }) => total,
    ),
    [4, 3, 2, 1],
  );
});
