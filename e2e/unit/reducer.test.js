/** core/reducer.js: actions, and events about models. */

import { eventHandlers, initialState, isKnownAction, reduce as reduceIt } from '/web/core/reducer.js';
import {
  reduce,
  after,
  hear,
  models,
  nodes,
  shownOf,
  progressOf,
  signedIn,
  withModels,
} from './reducer-steps.js';
import { equal, fails, ok, test } from './runner.js';
import {
  downloading,
  event,
  metrics,
  model,
  node,
  nodeChanged,
  onNode,
  replica,
  statusChanged,
} from './samples.js';

// --- actions -----------------------------------------------------------------------------------------

test('at first nobody knows who is there', () => {
  const state = initialState();
  equal([state.me, state.models, state.nodes, state.lastSeq], [undefined, null, null, 0]);
  ok(initialState().traffic !== initialState().traffic, 'two pages share nothing');
});

test('it knows its own actions and no others', () => {
  for (const type of [
    'me',
    'signedOut',
    'models',
    'model',
    'nodes',
    'system',
    'loadError',
    'connection',
    'showToast',
    'dismissToast',
    'refreshStarted',
    'events',
  ]) {
    ok(isKnownAction({ type }), type);
  }
  for (const type of ['x', 'constructor', '__proto__', 'toString', undefined])
    ok(!isKnownAction({ type }), String(type));
});

test('signing out forgets everything, and remembers who ended it', () => {
  const full = hear(withModels(model('a')), metrics('n'), statusChanged('a', 'Registered'));
  equal(reduce(full, { type: 'signedOut' }), { ...initialState(), me: null });
  const sessionEnded = reduce(full, { type: 'signedOut', sessionEnded: true });
  equal([sessionEnded.me, sessionEnded.sessionEnded, sessionEnded.models], [null, true, null]);
  equal(reduce(sessionEnded, { type: 'me', me: { kind: 'session' } }).sessionEnded, false);
});

test('system, and why the first answer did not come', () => {
  const error = new Error('away');
  const state = after(
    initialState(),
    { type: 'system', system: { version: '1' } },
    { type: 'loadError', error },
  );
  equal(state.system, { version: '1' });
  ok(state.loadError === error);
  equal(reduce(state, models(model('a'))).loadError, null);
});

test('models are kept by id in the order of the answer', () => {
  const state = after(signedIn, models(model('b'), model('a'), model('c')));
  equal([...state.models.keys()], ['b', 'a', 'c']);
  equal([...after(state, models(model('c'))).models.keys()], ['c']);
});

test('one model replaces itself; one that is not in the list is not added', () => {
  const state = withModels(model('a'), model('b'));
  const next = reduce(state, { type: 'model', model: model('b', { status: 'Ready' }) });
  equal(
    [...next.models.values()].map(({ status }) => status),
    ['Available', 'Ready'],
  );
  ok(next.models.get('a') === state.models.get('a'), 'the others stay the same objects');
  ok(reduce(state, { type: 'model', model: model('z') }) === state);
  ok(reduce(signedIn, { type: 'model', model: model('z') }) === signedIn);
});

test('the connection: losing it begins a new count of events', () => {
  const state = hear(withModels(model('a')), metrics('n'));
  ok(state.lastSeq > 0);
  const connection = reduce(state, {
    type: 'connection',
    connection: { status: 'connected', since: 1, retryAt: null },
  });
  equal(connection.lastSeq, state.lastSeq);
  equal(
    reduce(state, { type: 'connection', connection: { status: 'disconnected', since: 1, retryAt: 2 } })
      .lastSeq,
    0,
  );
  equal(connection.connection.status, 'connected');
});

test('notices have ids of their own, the last five stay, and can be dismissed', () => {
  let state = initialState();
  for (let at = 1; at <= 7; at += 1)
    state = reduce(state, { type: 'showToast', toast: { kind: 'info', text: `n${at}` } });
  equal(
    state.toasts.map(({ id }) => id),
    [3, 4, 5, 6, 7],
  );
  state = reduce(state, { type: 'dismissToast', id: 5 });
  equal(
    state.toasts.map(({ text }) => text),
    ['n3', 'n4', 'n6', 'n7'],
  );
  equal(
    reduce(state, { type: 'showToast', toast: { kind: 'info', text: 'new' } }).toasts.at(-1).id,
    8,
    'an id is not used again',
  );
});

// --- events: order -----------------------------------------------------------------------------------

test('an event that was heard already is passed over', () => {
  const [first, second] = [downloading('a', 0.2), downloading('a', 0.4)];
  const state = hear(withModels(model('a')), first, second);
  equal(state.lastSeq, second.seq);
  ok(hear(state, first) === state);
  ok(hear(state, second, first) === state);
  ok(hear(state) === state);
});

test('an event of a type that is not known changes nothing but the count', () => {
  const state = withModels(model('a'));
  const next = hear(state, event('Something', { model_id: 'a' }), event('constructor'));
  equal(next.models, state.models);
  ok(next.lastSeq > 0);
});

test('Hello and Resync change nothing by themselves', () => {
  const state = withModels(model('a'));
  const next = hear(state, event('Hello', { version: '1' }), event('Resync'));
  equal({ ...next, lastSeq: 0 }, { ...state, lastSeq: 0 });
});

test('each event is taken before the first answer, too', () => {
  for (const heard of [
    statusChanged('a', 'Ready'),
    event('ModelStatsUpdated', { model_id: 'a', hf_stats: {} }),
    nodeChanged('n', [onNode('a', 'ready')]),
    metrics('n'),
    event('AnswersRunning', { user_id: 'u', count: 1 }),
  ]) {
    const state = hear(signedIn, heard);
    equal([state.models, state.nodes, state.lastSeq], [null, null, heard.seq]);
  }
});

test('each kind of event keeps the objects of those it does not concern', () => {
  const state = after(
    signedIn,
    models(model('a', { replicas: [replica('n', 'ready')] }), model('b')),
    nodes(node('n'), node('m')),
  );
  for (const heard of [
    statusChanged('a', 'Ready'),
    event('ModelStatsUpdated', { model_id: 'a', hf_stats: {} }),
    nodeChanged('n', [onNode('a', 'ready', 'ready')]),
    metrics('n'),
    event('AnswersRunning', { user_id: 'u', count: 1 }),
  ]) {
    const next = hear(state, heard);
    ok(next.models.get('b') === state.models.get('b'), heard.type);
    ok(next.nodes.get('m') === state.nodes.get('m'), heard.type);
  }
  equal(Object.keys(eventHandlers).length, 8);
});

// --- ModelStatusChanged ------------------------------------------------------------------------------

test('a status brings its numbers, and has the rest asked for', () => {
  const state = hear(
    withModels(model('a'), model('b')),
    downloading('a', 0.25, { available_nodes: 2, error: 'waiting for the network' }),
  );
  const {
    status,
    download_progress,
    downloaded_bytes,
    total_bytes,
    bytes_per_second,
    eta_seconds,
    available_nodes,
    error,
  } = shownOf(state, 'a');
  equal(
    [
      status,
      download_progress,
      downloaded_bytes,
      total_bytes,
      bytes_per_second,
      eta_seconds,
      available_nodes,
      error,
    ],
    ['Downloading', 0.25, 250, 1000, 50, 3, 2, 'waiting for the network'],
  );
  equal(state.stale.models, new Set(['a']));
});

test('progress alone has nothing asked for', () => {
  const begun = reduce(hear(withModels(model('a')), downloading('a', 0.1)), { type: 'refreshStarted' });
  equal(hear(begun, downloading('a', 0.2), downloading('a', 0.3)).stale.models.size, 0);
});

test('a model that is not in the list is passed over', () => {
  const state = withModels(model('a'));
  const next = hear(state, downloading('z', 0.1));
  equal([...next.models.keys()], ['a']);
  equal(next.stale.models.size, 0);
});

test('a download never runs backwards while it goes on', () => {
  let state = withModels(model('a'));
  const seen = [];
  for (const progress of [0, 0.3, 0.2, 0.30001, 0.1, 0.9, 0.89, 1, 0.99]) {
    state = hear(state, downloading('a', progress));
    seen.push(progressOf(state, 'a'));
    equal(shownOf(state, 'a').downloaded_bytes, seen.at(-1) * 1000);
  }
  equal(seen, [0, 0.3, 0.3, 0.30001, 0.30001, 0.9, 0.9, 1, 1]);
});

test('a download of which nobody knows how far it is', () => {
  const state = hear(withModels(model('a')), downloading('a', 0, { progress: null }));
  equal(progressOf(state, 'a'), null);
  equal(progressOf(hear(state, downloading('a', 0.1)), 'a'), 0.1);
  equal(progressOf(hear(state, downloading('a', 0.1), downloading('a', 0, { progress: null })), 'a'), 0.1);
});

test('an answer that is older than the events does not turn it back', () => {
  const state = hear(withModels(model('a')), downloading('a', 0.6));
  const answer = model('a', {
    status: 'Downloading',
    download_progress: 0.4,
    downloaded_bytes: 400,
    total_bytes: 1000,
    replicas: [replica('n', 'downloading')],
  });
  for (const next of [reduce(state, models(answer)), reduce(state, { type: 'model', model: answer })]) {
    equal([progressOf(next, 'a'), shownOf(next, 'a').downloaded_bytes], [0.6, 600]);
    equal(shownOf(next, 'a').replicas.length, 1, 'the rest of the answer counts');
  }
  equal(progressOf(reduce(state, models({ ...answer, download_progress: 0.7 })), 'a'), 0.7);
});

test('a download that restarts starts at zero', () => {
  for (const between of ['Error', 'Available', 'Registered', 'Ready']) {
    const state = hear(
      withModels(model('a')),
      downloading('a', 0.8),
      statusChanged('a', between),
      downloading('a', 0.05),
    );
    equal(progressOf(state, 'a'), 0.05, between);
  }
});

test('whatever comes in whatever order, what is shown never runs backwards', () => {
  let seed = 11;
  const random = () => {
    seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0;
    return seed / 2 ** 32;
  };
  let state = withModels(model('a'));
  let last = null;
  for (let step = 0; step < 2000; step += 1) {
    const status = ['Downloading', 'Downloading', 'Downloading', 'Downloading', 'Error', 'Available'][
      Math.floor(random() * 6)
    ];
    const progress = status === 'Downloading' ? random() : null;
    const heard = { ...downloading('a', progress ?? 0), status, progress };
    const answer = model('a', { status, download_progress: progress, downloaded_bytes: 0 });
    state = random() < 0.5 ? hear(state, heard) : reduce(state, models(answer));
    const now = shownOf(state, 'a');
    if (last?.status === 'Downloading' && now.status === 'Downloading')
      ok(now.download_progress >= last.download_progress, `step ${step}`);
    else equal(now.download_progress, progress);
    last = now;
  }
});

test('ModelStatsUpdated brings the figures of the Hub', () => {
  const stats = { downloads: 7, stars: 3, last_modified: null };
  const state = hear(
    withModels(model('a')),
    event('ModelStatsUpdated', { model_id: 'a', hf_stats: stats }),
    event('ModelStatsUpdated', { model_id: 'z', hf_stats: stats }),
  );
  equal(shownOf(state, 'a').hf_stats, stats);
  equal(state.stale.models.size, 0);
});

// --- answers and events ------------------------------------------------------------------------------

test('what was heard since a question was asked is applied to its answer', () => {
  const heard = [statusChanged('a', 'Registered'), downloading('a', 0.5)];
  const state = hear(withModels(model('a')), ...heard);
  const old = model('a', { status: 'Available' });
  for (const action of [
    { ...models(old), after: heard },
    { type: 'model', model: old, after: heard },
  ]) {
    const next = reduce(state, action);
    equal([shownOf(next, 'a').status, progressOf(next, 'a')], ['Downloading', 0.5]);
  }
  const stats = [metrics('n', { memory_used_bytes: 5 })];
  equal(reduce(state, { ...nodes(node('n')), after: stats }).nodes.get('n').memory_used_bytes, 5);
});

test('hearing the same again after an answer tells nobody twice', () => {
  const heard = [downloading('a', 0.5), statusChanged('a', 'Ready'), metrics('n', { request_count: 3 })];
  const begun = withModels(model('a', { status: 'Registered' }));
  const state = hear(begun, ...heard);
  equal(
    state.toasts.map(({ key }) => key),
    ['toast.ready'],
  );
  const next = after(
    state,
    { ...models(model('a', { status: 'Ready' })), after: heard },
    { ...nodes(node('n')), after: heard },
  );
  equal(next.toasts.length, 1);
  equal(next.traffic.get('n').history.length, 1);
});

test('asked: nothing is outdated any more', () => {
  const state = reduce(hear(withModels(model('a')), statusChanged('a', 'Ready'), nodeChanged('new')), {
    type: 'refreshStarted',
  });
  equal(state.stale, { models: new Set(), nodes: false });
});

test('an action that is not known is an error', () => fails(() => reduceIt(initialState(), { type: 'x' })));
