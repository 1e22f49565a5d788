/** core/sse.js: events from bytes, split anywhere. */

import { events, parseEvent } from '/web/core/sse.js';
import { equal, fails, ok, test } from './runner.js';

const bytes = (text) => new TextEncoder().encode(text);

/** Stream of `chunks`; `ended.cancelled` is true if the reader cancelled it. */
function streamOf(chunks, ended = {}) {
  const left = [...chunks];
  return new ReadableStream({
    pull(controller) {
      if (left.length) controller.enqueue(left.shift());
      else controller.close();
    },
    cancel() {
      ended.cancelled = true;
    },
  });
}

async function read(chunks) {
  const found = [];
  for await (const { event, data } of events(streamOf(chunks))) found.push([event, data]);
  return found;
}

const TEXT =
  'data: {"a":1}\n\n: heartbeat\n\nevent: error\ndata: é日本🙂\ndata: two\n\nid: 7\r\ndata:x\r\n\r\ndata: [DONE]\n\ndata: never ended';
const FOUND = [
  ['message', '{"a":1}'],
  ['error', 'é日本🙂\ntwo'],
  ['message', 'x'],
  ['message', '[DONE]'],
];

test('events in one piece', async () => equal(await read([bytes(TEXT)]), FOUND));

test('events cut at every byte', async () => {
  const all = bytes(TEXT);
  for (let at = 0; at <= all.length; at += 1)
    equal(await read([all.slice(0, at), all.slice(at)]), FOUND, `cut at ${at}`);
});

test('events byte by byte', async () =>
  equal(await read([...bytes(TEXT)].map((byte) => Uint8Array.of(byte))), FOUND));

test('nothing, and nothing but comments', async () => {
  equal(await read([]), []);
  equal(await read([bytes('\n\n\n\n: a\n\n: b\n\n')]), []);
  equal(await read([bytes('event: ping\n\n')]), [], 'an event without data is none');
});

test('each event is there as soon as its bytes are', async () => {
  let enqueue;
  const stream = new ReadableStream({
    start: (controller) => (enqueue = (text) => controller.enqueue(bytes(text))),
  });
  const reading = events(stream);
  enqueue('data: 1\n\nda');
  equal((await reading.next()).value.data, '1');
  enqueue('ta: 2\n\n');
  equal((await reading.next()).value.data, '2');
  await reading.return();
});

test('a reader that stops ends the stream', async () => {
  const ended = {};
  for await (const { data } of events(
    streamOf([bytes('data: 1\n\n'), bytes('data: 2\n\n'), bytes('data: 3\n\n')], ended),
  )) {
    equal(data, '1');
    break;
  }
  ok(ended.cancelled);
});

test('a stream that breaks is an error, and what came before it is read', async () => {
  let step = 0;
  const stream = new ReadableStream({
    pull(controller) {
      step += 1;
      if (step === 1) controller.enqueue(bytes('data: 1\n\n'));
      else controller.error(new Error('cut'));
    },
  });
  const found = [];
  await fails(async () => {
    for await (const { data } of events(stream)) found.push(data);
  }, /cut/);
  equal(found, ['1']);
});

test('lines of an event', () => {
  equal(parseEvent('data: a'), { event: 'message', data: 'a' });
  equal(parseEvent('data:a'), { event: 'message', data: 'a' });
  equal(parseEvent('data:  a '), { event: 'message', data: ' a ' }, 'one space is not part of it');
  equal(parseEvent('data'), { event: 'message', data: '' });
  equal(parseEvent('data: a: b\ndata:\ndata: c'), { event: 'message', data: 'a: b\n\nc' });
  equal(parseEvent('dataa: x\n data: y\nDATA: z'), null);
  equal(parseEvent(''), null);
});
