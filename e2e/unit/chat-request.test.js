/** pages/playground/chat-request.js. */

import {
  continuationBody,
  nextRequestBody,
  PARAMETERS,
  parseNumber,
  requestBody,
} from '/web/pages/playground/chat-request.js';
import { equal, frozen, test } from './runner.js';

const user = (text, images) => ({ role: 'user', text, ...(images ? { images } : {}) });
const assistant = (text) => ({ role: 'assistant', text });
const NOTHING = { text: '', images: [], files: [] };

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
  const messages = frozen([user('a'), assistant(''), user('b'), assistant('<think>x</think>c'), user('d')]);
  equal(requestBody('m', {}, messages), {
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
  equal(requestBody('m', {}, [user('', [url])]).messages, [{ role: 'user', content: [part] }]);
  equal(requestBody('m', {}, frozen([user('a'), user('b', [url])])).messages, [
    { role: 'user', content: [{ type: 'text', text: 'a' }, { type: 'text', text: 'b' }, part] },
  ]);
});

test('system prompt, stops and numbers are sent where they are set', () => {
  const settings = {
    system: ' be brief ',
    stop: 'a\n\nb',
    parameters: { temperature: 0, top_k: 5000, seed: 'x', model: 1, min_p: NaN },
  };
  const body = requestBody('m', settings, [user('q')]);
  equal(
    [body.messages[0], body.stop, body.temperature],
    [{ role: 'system', content: ' be brief ' }, ['a', 'b'], 0],
  );
  equal(Object.keys(body).sort(), ['messages', 'model', 'stop', 'temperature']);
  equal(requestBody('m', { system: '  ', stop: '\n' }, [user('q')]), {
    model: 'm',
    messages: [{ role: 'user', content: 'q' }],
  });
  equal(requestBody('m', { stop: 'x\n'.repeat(20) }, []).stop.length, 8);
});

test('files stand before the text of their question', () => {
  const files = [{ name: 'a.md', text: 'x' }];
  equal(requestBody('m', {}, [{ ...user('why?'), files }]).messages[0].content, 'a.md:\n```\nx\n```\n\nwhy?');
});

test('an answer is continued from its text, without reasoning', () => {
  const body = continuationBody('m', {}, [user('a'), assistant('One,')]);
  equal(body.messages.at(-1), { role: 'assistant', content: 'One,' });
  equal(body.chat_template_kwargs, { enable_thinking: false });
});

test('the next request: the draft, else the last question again, else the example', () => {
  const said = frozen([user('a'), assistant('b')]);
  const texts = (messages, draft) =>
    nextRequestBody('m', {}, messages, draft, 'Hello').messages.map(({ content }) => content);
  equal(texts(said, { ...NOTHING, text: ' c ' }), ['a', 'b', 'c']);
  equal(texts(said, NOTHING), ['a']);
  equal(texts([], NOTHING), ['Hello']);
});
