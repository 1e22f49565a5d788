/** pages/playground/context.js. */

import {
  contextTokens,
  dropOldest,
  estimateTokens,
  messageTokens,
  scaleOf,
} from '/web/pages/playground/context.js';
import { equal, ok, test } from './runner.js';

const NO_DRAFT = { text: '', images: [], files: [] };
const user = (text, fields = {}) => ({ role: 'user', text, ...fields });
const assistant = (text, fields = {}) => ({ role: 'assistant', text, ...fields });

test('an estimate counts characters by script', () => {
  equal(estimateTokens(''), 0);
  equal(estimateTokens('x'.repeat(37)), 10);
  equal(estimateTokens('日本語のテキスト10'), 7);
});

test('files and images of a question count', () => {
  const bare = messageTokens(user('a'));
  ok(messageTokens(user('a', { files: [{ name: 'a.txt', text: 'x'.repeat(370) }] })) > bare + 100);
  ok(messageTokens(user('a', { images: ['data:'] })) > bare + 500);
});

test('what the engine counted is not estimated again', () => {
  const messages = [user('x'.repeat(9999)), assistant('ok', { stats: { prompt_tokens: 100 } })];
  const counted = contextTokens({ system: 'y'.repeat(9999) }, messages, NO_DRAFT);
  ok(counted >= 100 && counted < 110, counted);
  ok(contextTokens({}, messages, { ...NO_DRAFT, text: 'z'.repeat(370) }) > counted + 100);
  equal(contextTokens({}, [], NO_DRAFT), 0);
  const both = { prompt_tokens: 36, completion_tokens: 231 };
  const after = (text) => contextTokens({}, [user('a'), assistant(text, { stats: both })], NO_DRAFT);
  equal(after('x'.repeat(1200)), 267, 'what the engine counted, not an estimate');
  ok(after('<think>so</think>Yes.') < 60, 'without the reasoning');
});

test('the oldest messages are left out, from a question on', () => {
  const long = 'x'.repeat(3700);
  const messages = [user(long), assistant(long), user(long), assistant(long), user('now')];
  equal(dropOldest({}, messages, 100_000), messages);
  equal(dropOldest({}, messages, 3200), messages.slice(2));
  equal(dropOldest({}, messages, 1500), messages.slice(4));
  // The last question stays, whatever its length.
  equal(dropOldest({}, [user(long)], 100), [messages[0]]);
  // The refusal has shown that tokens are shorter than estimated.
  equal(dropOldest({}, messages, 3200, 1.5), messages.slice(4));
});

test('a refusal shows how good the estimate was', () => {
  const messages = [user('x'.repeat(3695))];
  ok(Math.abs(scaleOf({}, messages, 2000) - 2) < 0.02);
  equal(scaleOf({}, messages, 10), 1);
});
