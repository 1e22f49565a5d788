/** pages/requests/usage-csv.js. */

import { csvName, usageCsv } from '/web/pages/requests/usage-csv.js';
import { equal, test } from './runner.js';

const entry = (name) => ({
  bucket: '2026-01-02T00:00:00Z',
  key: 'k',
  name,
  user: null,
  requests: 1,
  cost_usd: 0.5,
});

test('a line for each total; what is unknown is empty', () => {
  equal(usageCsv({ usage: [entry('box')] }).split('\r\n'), [
    'bucket,key,name,user,requests,errors,prompt_tokens,cached_tokens,completion_tokens,cost_usd,duration_ms',
    '2026-01-02T00:00:00Z,k,box,,1,,,,,0.5,',
    '',
  ]);
  equal(
    csvName({ by: 'key', bucket: 'day', from: '2026-01-02T00:00:00Z', to: '2026-01-05T00:00:00Z' }),
    'usage-by-key-day-2026-01-02-2026-01-04.csv',
  );
});

test('names cannot break a row, nor become a formula', () => {
  const written = (name) =>
    usageCsv({ usage: [entry(name)] })
      .split('Z,k,')[1]
      .split(',,1,')[0];
  equal(['a,b', 'a"b', '=1+1', '@x', '-x'].map(written), ['"a,b"', '"a""b"', "'=1+1", "'@x", "'-x"]);
  // Where semicolons or tabs separate cells, and signs of other keyboards.
  equal(['a;=1', 'a;"=1"', ' =1', 'a\t@x', '＝1', 'a-b; c'].map(written), [
    "a;'=1",
    '"a;\'""=1"""',
    "' =1",
    "a\t'@x",
    "'＝1",
    'a-b; c',
  ]);
});
