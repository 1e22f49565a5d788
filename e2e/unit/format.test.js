/** core/format.js, in English and Japanese. */

import SIZES from './sizes.js';
import * as format from '/web/core/format.js';
import { equal, test } from './runner.js';

const table = (of, rows, ...more) => {
  for (const [value, text] of rows) equal(of(value, ...more), text, `of ${value}`);
};

test('bytes: three figures, one decimal below 100, the next unit from 999.5 on', () => {
  table(format.bytes, [
    [0, '0 B'],
    [1, '1 B'],
    [999, '999 B'],
    [999.4, '999 B'],
    [999.5, '1 kB'],
    [1000, '1 kB'],
    [1049, '1 kB'],
    [1050, '1.1 kB'],
    [99_949, '99.9 kB'],
    [99_950, '100 kB'],
    [100_000, '100 kB'],
    [999_499, '999 kB'],
    [999_500, '1 MB'],
    [98_400_000, '98.4 MB'],
    [1_234_567_890, '1.2 GB'],
    [999_499_999, '999 MB'],
    [999_500_000, '1 GB'],
    [16e12, '16 TB'],
    [1e15, '1 PB'],
    [123e15, '123 PB'],
    [1e18, '1,000 PB'],
    [-1500, '-1.5 kB'],
    [null, '–'],
    [undefined, '–'],
  ]);
});

test('shown sizes add up to the eye', () => {
  const [total, used] = [20_240_000_000, 462_000_000];
  const free = format.shownBytes(total) - format.shownBytes(used);
  equal([total, used, free].map((each) => format.bytes(each)), ['20.2 GB', '462 MB', '19.7 GB']);
  equal([0, 999_499, 999_500, -1_250_000].map(format.shownBytes), [0, 999_000, 1_000_000, -1_300_000]);
});

test('bytes and rates in Japanese', () => {
  table(
    format.bytes,
    [
      [1_234_567_890, '1.2 GB'],
      [1e18, '1,000 PB'],
      [null, '–'],
    ],
    'ja',
  );
  table(
    format.rate,
    [
      [98_400_000, '98.4 MB/s'],
      [0, '0 B/s'],
      [null, '–'],
    ],
    'ja',
  );
});

test('sizes are those of the commands', () => table(format.bytes, SIZES));

test('rates', () =>
  table(format.rate, [
    [1500, '1.5 kB/s'],
    [0, '0 B/s'],
    [null, '–'],
    [undefined, '–'],
  ]));

test('percent rounds down, so that 100% means complete', () => {
  const rows = [
    [0, '0%'],
    [0.001, '0%'],
    [0.0099, '0%'],
    [0.01, '1%'],
    [0.29, '29%'],
    [0.57, '57%'],
    [0.455, '45%'],
    [0.99, '99%'],
    [0.999, '99%'],
    [0.9999999, '99%'],
    [1, '100%'],
    [null, '0%'],
    [undefined, '0%'],
  ];
  table(format.percent, rows);
  table(format.percent, rows, 'ja');
});

test('every whole per cent is shown as what it is', () => {
  for (let whole = 0; whole <= 100; whole += 1) equal(format.percent(whole / 100), `${whole}%`);
});

test('compact', () => {
  table(format.compact, [
    [0, '0'],
    [999, '999'],
    [1000, '1K'],
    [1550, '1.6K'],
    [50_000, '50K'],
    [2_400_000, '2.4M'],
    [null, '–'],
    [undefined, '–'],
  ]);
  table(
    format.compact,
    [
      [999, '999'],
      [50_000, '5万'],
      [2_400_000, '240万'],
      [123_456_789, '1.2億'],
      [null, '–'],
    ],
    'ja',
  );
});

test('number', () => {
  table(format.number, [
    [0, '0'],
    [1234.5, '1,235'],
    [-1, '-1'],
    [null, '–'],
    [undefined, '–'],
  ]);
  equal(format.number(12.345, 'en', 1), '12.3');
  equal(format.number(12, 'en', 1), '12.0');
  equal(format.number(1234567.8, 'ja', 1), '1,234,567.8');
});

test('tokens: powers of two by their names', () => {
  table(format.tokens, [
    [0, '0'],
    [512, '512'],
    [1000, '1,000'],
    [1024, '1K'],
    [4096, '4K'],
    [5000, '5,000'],
    [131_072, '128K'],
    [1_048_576, '1,024K'],
    [null, '–'],
    [undefined, '–'],
  ]);
  equal(format.tokens(131_072, 'ja'), '128K');
});

test('duration: at most two units, none of them zero', () => {
  table(format.duration, [
    [0, '0 sec'],
    [0.4, '0 sec'],
    [0.5, '1 sec'],
    [40, '40 sec'],
    [59.4, '59 sec'],
    [59.5, '1 min'],
    [60, '1 min'],
    [119, '1 min'],
    [3599, '59 min'],
    [3599.5, '1 hr'],
    [3600, '1 hr'],
    [3660, '1 hr 1 min'],
    [4800, '1 hr 20 min'],
    [7259, '2 hr'],
    [86_399, '23 hr 59 min'],
    [86_400, '1 day'],
    [183_600, '2 days 3 hr'],
    [-5, '0 sec'],
    [null, '–'],
    [undefined, '–'],
    [NaN, '–'],
    [Infinity, '–'],
  ]);
  table(
    format.duration,
    [
      [40, '40 秒'],
      [4800, '1 時間 20 分'],
      [183_600, '2 日 3 時間'],
      [null, '–'],
    ],
    'ja',
  );
});

test('milliseconds', () => {
  table(format.milliseconds, [
    [0, '0 ms'],
    [0.4, '0 ms'],
    [340.4, '340 ms'],
    [999.4, '999 ms'],
    [999.5, '1.0 s'],
    [1000, '1.0 s'],
    [1249, '1.2 s'],
    [61_000, '61.0 s'],
    [null, '–'],
    [undefined, '–'],
  ]);
  equal(format.milliseconds(1200, 'ja'), '1.2 s');
});

test('ago, and ahead', () => {
  const now = Date.UTC(2026, 10, 21, 12);
  const before = (seconds) => new Date(now - seconds * 1000);
  table(
    (moment, locale) => format.ago(moment, locale, now),
    [
      [before(0), 'now'],
      [before(1), '1 second ago'],
      [before(59.9), '59 seconds ago'],
      [before(60), '1 minute ago'],
      [before(3599), '59 minutes ago'],
      [before(3600), '1 hour ago'],
      [before(86_399), '23 hours ago'],
      [before(86_400), 'yesterday'],
      [before(20 * 86_400), '20 days ago'],
      [before(2_629_800), 'last month'],
      [before(31_557_600), 'last year'],
      [before(-120), 'in 2 minutes'],
      [now / 1000 - 180, '3 minutes ago'],
      ['2026-11-21T11:00:00Z', '1 hour ago'],
      [null, '–'],
      [undefined, '–'],
      ['', '–'],
      ['not a date', '–'],
    ],
    'en',
  );
  equal(format.ago(before(180), 'ja', now), '3 分前');
  equal(format.ago(before(0), 'ja', now), '今');
});

test('dates and times in the zone of the reader', () => {
  const moment = '2026-11-21T09:05:07Z';
  equal(format.dateTime(moment, 'en'), format.dateTime(new Date(moment), 'en'));
  equal(format.dateTime(moment, 'en').replace(/\s/g, ' '), 'Nov 21, 2026, 9:05 AM');
  equal(format.dateTime(Date.parse(moment) / 1000, 'ja'), '2026/11/21 9:05');
  equal(format.timeOfDay(moment, 'en').replace(/\s/g, ' '), '9:05:07 AM');
  equal(format.timeOfDay(moment, 'ja'), '9:05:07');
  for (const nothing of [null, undefined, '', 'not a date', NaN]) {
    equal([format.dateTime(nothing), format.timeOfDay(nothing)], ['–', '–']);
  }
});
