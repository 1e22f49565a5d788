/** pages/playground/response-stats.js. */

import { responseStats } from '/web/pages/playground/response-stats.js';
import { equal, ok, test } from './runner.js';

test('the speed is what the engine tells, else that of the pieces', () => {
  const measured = { firstTokenMs: 200, totalMs: 1200, pieces: 11 };
  const usage = { prompt_tokens: 12, completion_tokens: 90, prompt_tokens_details: { cached_tokens: 3 } };
  const timings = { predicted_per_second: 12.34, predicted_n: 9, prompt_n: 8, cache_n: 2 };
  equal(responseStats({ usage, timings }, measured), {
    promptTokens: 12,
    cachedTokens: 3,
    completionTokens: 90,
    tokensPerSecond: 12.34,
    firstTokenMs: 200,
  });
  equal(responseStats({ timings }, measured).completionTokens, 9);
  for (const rate of [0, Infinity, NaN, null, 1e9, -1])
    equal(responseStats({ timings: { predicted_per_second: rate } }, measured).tokensPerSecond, 10);
  const none = responseStats({}, { firstTokenMs: null, totalMs: 5, pieces: 0 });
  ok(Object.values(none).every((value) => value === null));
  equal(responseStats({}, { ...measured, pieces: 1 }).tokensPerSecond, null);
});
