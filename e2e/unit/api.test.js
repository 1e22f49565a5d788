/** core/api.js: every failure is an ApiError, and an expired session is detected. */

import { ApiError, createApi } from '/web/core/api.js';
import { equal, fails, ok, test } from './runner.js';

const json = (body, status = 200, headers = {}) => new Response(JSON.stringify(body), { status, headers });
const problem = (status, error, headers) => json({ error }, status, headers);

/** API client whose requests are answered by `answer(path, options)` and recorded in `calls`. */
function make(answer) {
  const calls = [];
  let signedOut = 0;
  const api = createApi({
    onSignedOut: () => (signedOut += 1),
    fetch: async (path, options) => {
      calls.push({ path, ...options });
      return answer(path, options);
    },
  });
  return { api, calls, signedOut: () => signedOut };
}

const failure = (run) =>
  fails(run).then((error) => {
    ok(error instanceof ApiError, String(error));
    return error;
  });

test('methods, bodies and credentials', async () => {
  const { api, calls } = make(() => json({ ok: true }));
  equal(await api.get('/a'), { ok: true });
  await api.post('/b', { x: 1 });
  await api.post('/c');
  await api.patch('/d', { y: null });
  await api.remove('/e');
  equal(
    calls.map(({ method, path, body, credentials, headers }) => [
      method,
      path,
      body,
      credentials,
      headers['content-type'],
    ]),
    [
      ['GET', '/a', undefined, 'same-origin', undefined],
      ['POST', '/b', '{"x":1}', 'same-origin', 'application/json'],
      ['POST', '/c', '{}', 'same-origin', 'application/json'],
      ['PATCH', '/d', '{"y":null}', 'same-origin', 'application/json'],
      ['DELETE', '/e', undefined, 'same-origin', undefined],
    ],
  );
});

test('204 is null', async () =>
  equal(await make(() => new Response(null, { status: 204 })).api.remove('/x'), null));

test('an error has the code, the words and the details of the body', async () => {
  const { api, signedOut } = make(() =>
    problem(
      507,
      { message: 'too large', type: 'api_error', code: 'insufficient_storage', required: 7 },
      { 'x-request-id': 'r1', 'retry-after': '12' },
    ),
  );
  const error = await failure(() => api.get('/x'));
  equal(
    [error.status, error.code, error.message, error.requestId, error.retryAfter, error.details],
    [507, 'insufficient_storage', 'too large', 'r1', 12, { required: 7 }],
  );
  equal(signedOut(), 0);
});

test('without a code the type says what it is', async () => {
  const error = await failure(() =>
    make(() => problem(500, { message: 'x', type: 'api_error', code: null })).api.get('/x'),
  );
  equal(error.code, 'api_error');
});

test('an answer that is no error of ours', async () => {
  for (const answer of [
    () => new Response('<h1>Bad gateway</h1>', { status: 502 }),
    () => json({}, 502),
    () => json(null, 502),
    () => json([], 502),
  ]) {
    const error = await failure(() => make(answer).api.get('/x'));
    equal([error.status, error.code, error.message], [502, 'unexpected', 'HTTP 502']);
  }
});

test('no answer at all', async () => {
  const error = await failure(() =>
    make(() => Promise.reject(new TypeError('Failed to fetch'))).api.get('/x'),
  );
  equal([error.status, error.code, error.retryAfter], [0, 'network', null]);
});

test('what is given up is no failure of llb', async () => {
  const controller = new AbortController();
  const { api, calls } = make(
    (_, { signal }) =>
      new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason))),
  );
  const asking = api.get('/x', { signal: controller.signal });
  controller.abort();
  equal((await fails(() => asking)).name, 'AbortError');
  ok(calls[0].signal === controller.signal);
});

test('401 means signed out, a wrong password does not', async () => {
  const ended = make(() => problem(401, { message: 'x', code: 'invalid_api_key' }));
  await failure(() => ended.api.post('/x'));
  equal(ended.signedOut(), 1);
  const wrong = make(() => problem(401, { message: 'x', code: 'invalid_credentials' }));
  equal((await failure(() => wrong.api.post('/x'))).code, 'invalid_credentials');
  equal(wrong.signedOut(), 0);
});

const sse = (...blocks) => new Response(blocks.map((block) => `data: ${block}\n\n`).join(''));

async function read(api) {
  const found = [];
  for await (const message of api.stream('/v1', { q: 1 })) found.push(message);
  return found;
}

test('a stream is read up to its end', async () => {
  const { api, calls } = make(() => sse('{"a":1}', '{"a":2}', '[DONE]', '{"a":3}'));
  equal(await read(api), [{ a: 1 }, { a: 2 }]);
  equal([calls[0].method, calls[0].body], ['POST', '{"q":1}']);
});

test('an error in a stream is thrown after what came before it', async () => {
  const { api } = make(() =>
    sse('{"a":1}', '{"error":{"message":"gone","code":"engine_failed","node":"attic"}}', '{"a":2}'),
  );
  const found = [];
  const error = await failure(async () => {
    for await (const message of api.stream('/v1', {})) found.push(message);
  });
  equal(
    [found, error.code, error.message, error.details],
    [[{ a: 1 }], 'engine_failed', 'gone', { node: 'attic' }],
  );
});

test('a stream that is refused is an error before the first event', async () => {
  const { api, signedOut } = make(() =>
    problem(503, { message: 'x', code: 'model_loading' }, { 'retry-after': '3' }),
  );
  equal((await failure(() => read(api))).retryAfter, 3);
  equal(signedOut(), 0);
});

test('a stream can be given up', async () => {
  const controller = new AbortController();
  let cancelled = false;
  const body = new ReadableStream({
    start: (stream) => stream.enqueue(new TextEncoder().encode('data: {"a":1}\n\n')),
    cancel: () => (cancelled = true),
  });
  const { api, calls } = make(() => new Response(body));
  for await (const message of api.stream('/v1', {}, controller.signal)) {
    equal(message, { a: 1 });
    break;
  }
  ok(calls[0].signal === controller.signal && cancelled);
});

test('a response that boot.js has asked for is taken once, with its failure', async () => {
  const asked = [];
  const offline = Promise.reject(new TypeError('offline'));
  // As boot.js does.
  offline.catch(() => {});
  const api = createApi({
    fetch: async (path) => {
      asked.push(path);
      return json({ from: 'fetch' });
    },
    early: {
      '/a': Promise.resolve(json({ from: 'boot' })),
      '/b': offline,
    },
  });
  ok(api.isEarly('/a'));
  equal(await api.get('/a'), { from: 'boot' });
  ok(!api.isEarly('/a'));
  equal(await api.get('/a'), { from: 'fetch' });
  equal((await failure(() => api.get('/b'))).code, 'network');
  equal(asked, ['/a']);
});
