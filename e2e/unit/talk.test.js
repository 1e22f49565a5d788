/** pages/playground: Markdown blocks, chat requests and response statistics. */

import { splitBlocks, splitThinking } from '/web/pages/playground/markdown-blocks.js';
import {
  nextRequestBody,
  parseNumber,
  PARAMETERS,
  requestBody,
  streamedBody,
} from '/web/pages/playground/chat-request.js';
import { responseStats } from '/web/pages/playground/response-stats.js';
import { equal, frozen, ok, test } from './runner.js';

const user = (text, images) => ({ role: 'user', text, ...(images ? { images } : {}) });
const assistant = (text) => ({ role: 'assistant', text });
const NOTHING = { text: '', images: [] };

test('blocks end at a blank line', () => {
  equal(splitBlocks(''), []);
  equal(splitBlocks('\n\n'), []);
  equal(splitBlocks('one'), ['one']);
  equal(
    splitBlocks('one\ntwo\n\nthree').map((each) => each.trimEnd()),
    ['one\ntwo', 'three'],
  );
});

test('a fence stays whole, also an open one and one of the other kind inside', () => {
  for (const whole of [
    '```js\na\n\nb\n```',
    '~~~\n```\n\nx\n~~~',
    '````\n```\n\n```\n````',
    '```\nopen\n\nstill open',
  ])
    equal(splitBlocks(whole), [whole]);
  equal(
    splitBlocks('```\na\n```\n\nafter').map((each) => each.trimEnd()),
    ['```\na\n```', 'after'],
  );
});

test('a list with blank lines stays one list', () => {
  for (const whole of ['- a\n\n- b', '1. a\n\n2. b', '- a\n\n  more of a'])
    equal(splitBlocks(whole), [whole]);
  equal(splitBlocks('- a\n\nno item').length, 2);
});

test('nothing is lost, and what is finished does not change while the rest arrives', () => {
  const text = '# Head\n\ntext\nmore\n\n- a\n\n- b\n\n```py\nx\n\ny\n```\n\n| a |\n| - |\n\n  end\n';
  equal(splitBlocks(text).join('\n').replace(/\s/g, ''), text.replace(/\s/g, ''));
  let before = [];
  for (let at = 0; at <= text.length; at += 1) {
    const now = splitBlocks(text.slice(0, at));
    // The last block may continue; a line that has only begun may turn out to belong to the block before.
    equal(now.slice(0, Math.max(0, before.length - 2)), before.slice(0, -2), `after ${at} characters`);
    before = now;
  }
});

test('thinking is told apart, closed or not yet', () => {
  equal(splitThinking('plain'), { thinking: '', text: 'plain' });
  equal(splitThinking('<think>a</think>\n\nb'), { thinking: 'a', text: 'b' });
  equal(splitThinking(' <think>\nstill'), { thinking: 'still', text: '' });
  equal(splitThinking('b <think>a</think>'), { thinking: '', text: 'b <think>a</think>' });
});

test('a typed number is one within its bounds, nothing, or none', () => {
  const [temperature, topK] = ['temperature', 'top_k'].map((name) =>
    PARAMETERS.find((each) => each.name === name),
  );
  equal(
    ['', '  ', '0', '2', '0.5'].map((text) => parseNumber(text, temperature)),
    [null, null, 0, 2, 0.5],
  );
  equal(
    ['2.01', '-1', 'x', 'NaN', 'Infinity', '1,5'].map((text) => parseNumber(text, temperature)),
    Array(6).fill(undefined),
  );
  equal(
    ['40', '1.5', '1001'].map((text) => parseNumber(text, topK)),
    [40, undefined, undefined],
  );
});

test('a conversation is sent in turns, without thoughts and without empty answers', () => {
  const conversation = frozen({
    messages: [user('a'), assistant(''), user('b'), assistant('<think>x</think>c'), user('d')],
  });
  equal(requestBody('m', conversation), {
    model: 'm',
    messages: [
      { role: 'user', content: 'a\n\nb' },
      { role: 'assistant', content: 'c' },
      { role: 'user', content: 'd' },
    ],
  });
});

test('pictures travel as parts, also where two questions join', () => {
  const url = 'data:image/png;base64,AA';
  const part = { type: 'image_url', image_url: { url } };
  equal(requestBody('m', { messages: [user('', [url])] }).messages, [{ role: 'user', content: [part] }]);
  equal(requestBody('m', frozen({ messages: [user('a'), user('b', [url])] })).messages, [
    { role: 'user', content: [{ type: 'text', text: 'a' }, { type: 'text', text: 'b' }, part] },
  ]);
});

test('system prompt, stops and numbers are sent where they are set', () => {
  const settings = {
    system: ' be brief ',
    stop: 'a\n\nb',
    parameters: { temperature: 0, top_k: 5000, seed: 'x', model: 1, min_p: NaN },
  };
  const body = requestBody('m', { ...settings, messages: [user('q')] });
  equal(
    [body.messages[0], body.stop, body.temperature],
    [{ role: 'system', content: ' be brief ' }, ['a', 'b'], 0],
  );
  equal(Object.keys(body).sort(), ['messages', 'model', 'stop', 'temperature']);
  equal(requestBody('m', { system: '  ', stop: '\n', messages: [user('q')] }), {
    model: 'm',
    messages: [{ role: 'user', content: 'q' }],
  });
  equal(requestBody('m', { stop: 'x\n'.repeat(20), messages: [] }).stop.length, 8);
  const streamed = streamedBody('m', { messages: [user('q')] });
  equal([streamed.stream, streamed.stream_options], [true, { include_usage: true }]);
});

test('the next request: the draft, else the last question again, else the example', () => {
  const said = frozen({ messages: [user('a'), assistant('b')] });
  const texts = (conversation, draft) =>
    nextRequestBody('m', conversation, draft, 'Hello').messages.map(({ content }) => content);
  equal(texts(said, { text: ' c ', images: [] }), ['a', 'b', 'c']);
  equal(texts(said, NOTHING), ['a']);
  equal(texts({ messages: [] }, NOTHING), ['Hello']);
});

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
