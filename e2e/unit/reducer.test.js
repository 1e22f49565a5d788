/** core/reducer.js. Every state and action of these tests is frozen. */

import {
  eventHandlers,
  HISTORY_LENGTH,
  initialState,
  isKnownAction,
  reduce as reduceIt,
} from '/web/core/reducer.js';
import { equal, fails, frozen, ok, test } from './runner.js';
import {
  comingTo,
  downloading,
  engine,
  event,
  metrics,
  model,
  node,
  nodeChanged,
  onNode,
  replica,
  statusChanged,
} from './samples.js';

/** Checks that neither the state nor the action is mutated. */
const reduce = (state, action) => frozen(reduceIt(frozen(state), frozen(action)));

const after = (state, ...actions) => actions.reduce(reduce, state);
const hear = (state, ...events) => reduce(state, { type: 'events', events });
const models = (...list) => ({ type: 'models', models: list });
const nodes = (...list) => ({ type: 'nodes', nodes: list });
const shownOf = (state, id) => state.models.get(id);
const progressOf = (state, id) => shownOf(state, id).download_progress;

const signedIn = after(initialState(), { type: 'me', me: { kind: 'session' } });
const withModels = (...list) => after(signedIn, models(...list), nodes());

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
  ]) {
    const next = hear(state, heard);
    ok(next.models.get('b') === state.models.get('b'), heard.type);
    ok(next.nodes.get('m') === state.nodes.get('m'), heard.type);
  }
  equal(Object.keys(eventHandlers).length, 7);
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

test('a download that begins anew begins anew', () => {
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

// --- NodeStatusChanged -------------------------------------------------------------------------------

const held = (state, engineState = null, id = 'a') => {
  const its = engineState && engine(id, engineState);
  return after(
    signedIn,
    models(model(id, { status: 'Ready', replicas: [replica('n', state, { engine: its })] }), model('b')),
    nodes(node('n', { replicas: [{ model_id: id, state }], engines: its ? [its] : [] })),
  );
};

test('a node takes name, state and draining; a new one is asked for', () => {
  const state = hear(
    held('ready'),
    nodeChanged('n', [onNode('a', 'ready')], { name: 'cellar', draining: true, tags: ['gpu'] }),
  );
  const { name, status, draining, tags } = state.nodes.get('n');
  equal([name, status, draining, tags, state.stale.nodes], ['cellar', 'online', true, ['gpu'], false]);
  const other = hear(held('ready'), nodeChanged('m'));
  equal([other.nodes.has('m'), other.stale.nodes], [false, true]);
});

test('a node that is renamed is renamed wherever a model says that it is there', () => {
  const state = hear(held('ready'), nodeChanged('n', [onNode('a', 'ready')], { name: 'garage' }));
  equal(
    [shownOf(state, 'a').replicas[0].node_name, state.stale],
    ['garage', { models: new Set(), nodes: false }],
  );
});

test('a node that goes or comes back is asked for: when it was last seen, what it is now', () => {
  const gone = hear(held('ready'), nodeChanged('n', [onNode('a', 'ready')], { status: 'offline' }));
  equal([gone.nodes.get('n').status, gone.stale.nodes], ['offline', true]);
  const refreshStarted = reduce(gone, { type: 'refreshStarted' });
  equal(
    hear(refreshStarted, nodeChanged('n', [onNode('a', 'ready')], { status: 'offline' })).stale.nodes,
    false,
  );
  equal(hear(refreshStarted, nodeChanged('n', [onNode('a', 'ready')])).stale.nodes, true);
});

test('a node that is removed is gone, and so are its replicas, whatever it held', () => {
  for (const models of [[], [onNode('a', 'ready')]]) {
    const state = hear(held('ready'), nodeChanged('n', models, { status: 'removed' }));
    equal([state.nodes.size, state.stale.nodes], [0, false]);
    equal(shownOf(state, 'a').replicas, []);
    equal(state.stale.models, new Set(['a']));
  }
});

test('another way to a node is shown at once, and where it leads is asked for', () => {
  const slower = { way: 'direct', answer_ms: 9 };
  const state = hear(held('ready'), nodeChanged('n', [onNode('a', 'ready')], { reach: slower }));
  equal([state.nodes.get('n').reach, state.stale.nodes], [slower, false]);
  const other = hear(
    held('ready'),
    nodeChanged('n', [onNode('a', 'ready')], { reach: { way: 'none', answer_ms: null } }),
  );
  equal([other.nodes.get('n').reach.way, other.stale.nodes], ['none', true]);
});

// --- downloads, node by node -------------------------------------------------------------------------

/** Model that two nodes are downloading, as in the API. */
const fetched = (downloaded) => {
  const coming = {
    model_id: 'a',
    state: 'downloading',
    downloaded_bytes: downloaded,
    total_bytes: 1000,
    bytes_per_second: 10,
    error: null,
  };
  const of = (id) => replica(id, 'downloading', { progress: downloaded / 1000 });
  return after(
    signedIn,
    models(model('a', { status: 'Downloading', replicas: [of('n'), of('m')] }), model('b')),
    nodes(node('n', { replicas: [coming] }), node('m', { replicas: [coming] })),
  );
};
const gotOn = (state, id) => state.nodes.get(id).replicas[0].downloaded_bytes;
const shareOn = (state, id) => shownOf(state, 'a').replicas.find((each) => each.node_id === id).progress;

test('each node has come as far as it tells, and needs no question for it', () => {
  const state = hear(
    fetched(100),
    nodeChanged('n', [comingTo('a', 600, { error: 'disconnected' })]),
    nodeChanged('m', [comingTo('a', 200)]),
  );
  equal([gotOn(state, 'n'), gotOn(state, 'm')], [600, 200]);
  equal([shareOn(state, 'n'), shareOn(state, 'm')], [0.6, 0.2]);
  const { bytes_per_second: rate, error } = state.nodes.get('n').replicas[0];
  equal([rate, error, shownOf(state, 'a').replicas[0].error], [50, 'disconnected', 'disconnected']);
  equal(state.stale, { models: new Set(), nodes: false });
});

test('no figure of a node runs backwards while it goes on', () => {
  const state = hear(fetched(500), nodeChanged('n', [comingTo('a', 300)]));
  equal([gotOn(state, 'n'), shareOn(state, 'n')], [500, 0.5]);
  const verifying = hear(
    state,
    nodeChanged('n', [{ ...comingTo('a', 1000), lifecycle_status: 'verifying' }]),
  );
  equal(
    [gotOn(verifying, 'n'), shareOn(verifying, 'n'), verifying.nodes.get('n').replicas[0].state],
    [1000, 1, 'verifying'],
  );
  const anew = hear(verifying, nodeChanged('n', [comingTo('a', 0)]));
  equal([gotOn(anew, 'n'), shareOn(anew, 'n')], [0, 0], 'what was wrong is fetched anew');
});

test('a replica that ends on one node is asked for, though the model is as it was', () => {
  const state = hear(fetched(500), nodeChanged('n', [onNode('a', 'error')]));
  equal(
    [shownOf(state, 'a').replicas[0].state, state.stale.models, state.stale.nodes],
    ['error', new Set(['a']), true],
  );
});

test('a model of which a node says nothing new stays the same object', () => {
  const state = held('ready', 'ready');
  const next = hear(state, nodeChanged('n', [onNode('a', 'ready', 'ready')]));
  ok(next.models.get('a') === state.models.get('a'));
});

test('an engine that is being loaded is shown at once, its numbers are asked for', () => {
  const state = hear(held('ready'), nodeChanged('n', [onNode('a', 'starting', 'starting', 0.4)]));
  const [its] = shownOf(state, 'a').replicas;
  equal([its.state, its.engine.state, its.engine.progress], ['ready', 'starting', 0.4]);
  const further = hear(
    held('ready', 'starting'),
    nodeChanged('n', [onNode('a', 'starting', 'starting', 0.7)]),
  );
  equal(further.nodes.get('n').engines[0].progress, 0.7);
  equal(
    hear(further, nodeChanged('n', [onNode('a', 'ready', 'ready')])).nodes.get('n').engines[0].progress,
    null,
  );
  equal([state.stale.models, state.stale.nodes], [new Set(['a']), true]);
});

test('an engine between two requests needs no question', () => {
  for (const [from, to] of [
    ['ready', 'busy'],
    ['busy', 'ready'],
    ['ready', 'ready'],
  ]) {
    const state = hear(held('ready', from), nodeChanged('n', [onNode('a', to, to)]));
    equal(shownOf(state, 'a').replicas[0].engine.state, to);
    equal(shownOf(state, 'a').replicas[0].engine.memory_bytes, 100, 'its numbers stay');
    equal(state.nodes.get('n').engines[0].state, to);
    equal([state.stale.models.size, state.stale.nodes], [0, false]);
  }
});

test('an engine that is gone is gone from the node, too', () => {
  const state = hear(held('ready', 'ready'), nodeChanged('n', [onNode('a', 'ready')]));
  equal([shownOf(state, 'a').replicas[0].engine, state.nodes.get('n').engines], [null, []]);
  equal([state.stale.models, state.stale.nodes], [new Set(['a']), true]);
});

test('a replica that comes or goes is asked for', () => {
  const came = hear(held('ready'), nodeChanged('n', [onNode('a', 'ready'), onNode('b', 'wanted')]));
  equal([came.stale.models, came.stale.nodes], [new Set(['b']), true]);
  const went = hear(held('ready'), nodeChanged('n', []));
  equal([shownOf(went, 'a').replicas, went.stale.models, went.stale.nodes], [[], new Set(['a']), true]);
  equal(hear(held('ready', 'ready'), nodeChanged('n', [])).nodes.get('n').engines, []);
});

test('a replica is in the state that its node tells', () => {
  for (const [told, shown] of [
    ['deleting', 'deleting'],
    ['verifying', 'verifying'],
    ['busy', 'ready'],
    ['failed', 'ready'],
  ]) {
    const state = hear(held('ready'), nodeChanged('n', [onNode('a', told, told === 'busy' ? 'busy' : null)]));
    equal(shownOf(state, 'a').replicas[0].state, shown);
  }
});

test('the same word again has nothing asked for', () => {
  equal(hear(held('downloading'), nodeChanged('n', [onNode('a', 'downloading')])).stale, {
    models: new Set(),
    nodes: false,
  });
});

// --- MetricsUpdated ----------------------------------------------------------------------------------

test('figures go to the node and into its history', () => {
  const heard = metrics('n', { request_count: 5, active_requests: 2, tokens_per_second: 12.5 });
  const state = hear(held('ready'), heard);
  const { meters, active_requests, memory_used_bytes, disk_free_bytes, slots } = state.nodes.get('n');
  equal(meters, { cpu_usage: 0.5, memory_usage: 0.6, gpu_usage: 0.7, gpu_memory_usage: 0.8 });
  equal([active_requests, memory_used_bytes, disk_free_bytes, slots], [2, 700, 800, 8]);
  const { history, ...latest } = state.traffic.get('n');
  equal(history, [latest]);
  equal(latest, {
    seq: heard.seq,
    at: heard.at,
    requests: 5,
    active: 2,
    tokensPerSecond: 12.5,
    cpu: 0.5,
    memory: 0.6,
  });
});

test('the history of a node is as long as it may be, and the latest is its last', () => {
  let state = held('ready');
  for (let at = 1; at <= HISTORY_LENGTH + 20; at += 1)
    state = hear(state, metrics('n', { tokens_per_second: at }));
  const { history, tokensPerSecond } = state.traffic.get('n');
  equal(
    [history.length, history[0].tokensPerSecond, history.at(-1).tokensPerSecond, tokensPerSecond],
    [HISTORY_LENGTH, 21, HISTORY_LENGTH + 20, HISTORY_LENGTH + 20],
  );
  const bySeq = history.map(({ seq }) => seq);
  equal(
    bySeq,
    [...bySeq].sort((a, b) => a - b),
  );
});

test('what was answered concerns the models that this node has loaded', () => {
  const state = after(
    signedIn,
    models(
      model('here', { replicas: [replica('n', 'ready', { engine: engine('here', 'ready') })] }),
      model('cold', { replicas: [replica('n', 'ready')] }),
      model('there', { replicas: [replica('m', 'ready', { engine: engine('there', 'ready') })] }),
    ),
    nodes(node('n'), node('m')),
  );
  equal(
    hear(state, metrics('n', { request_count: 1 }), metrics('n', { request_count: 2 })).stale.models,
    new Set(['here']),
  );
});

test('what was answered makes the node and what it has loaded outdated', () => {
  const state = hear(held('ready', 'ready'), metrics('n', { request_count: 1 }));
  equal([state.stale.models.size, state.stale.nodes], [0, false], 'the first figures tell of no change');
  const next = hear(state, metrics('n', { request_count: 2 }));
  equal([next.stale.models, next.stale.nodes], [new Set(['a']), true]);
  equal(
    hear(next, metrics('m', { request_count: 1 }), metrics('m', { request_count: 2 })).stale.models,
    new Set(['a']),
  );
  const quiet = hear(reduce(next, { type: 'refreshStarted' }), metrics('n', { request_count: 2 }));
  equal([quiet.stale.models.size, quiet.stale.nodes], [0, false]);
});

// --- notices -----------------------------------------------------------------------------------------

const told = (state) => state.toasts.map(({ kind, key, values }) => `${kind} ${key} ${values.name}`);

test('a pull that ends is told once, whoever says it first', () => {
  const begun = hear(withModels(model('a')), statusChanged('a', 'Registered'), downloading('a', 0.5));
  equal(told(begun), []);
  const byEvent = hear(begun, statusChanged('a', 'Ready'));
  equal(told(byEvent), ['success toast.ready Name of a']);
  equal(byEvent.toasts[0].about, 'model a');
  equal(told(reduce(byEvent, models(model('a', { status: 'Ready' })))).length, 1);
  equal(told(reduce(begun, models(model('a', { status: 'Ready' })))), ['success toast.ready Name of a']);
  equal(told(reduce(begun, { type: 'model', model: model('a', { status: 'Error' }) })), [
    'error toast.failed Name of a',
  ]);
});

test('a pull that ends between two frames is told, too', () => {
  const state = hear(
    withModels(model('a', { status: 'Registered' })),
    downloading('a', 0.5),
    statusChanged('a', 'Ready'),
  );
  equal(told(state), ['success toast.ready Name of a']);
});

test('what was so from the beginning, or is cancelled or deleted, is not told', () => {
  equal(told(withModels(model('a', { status: 'Ready' }), model('b', { status: 'Error' }))), []);
  equal(told(reduce(withModels(model('a')), models(model('a'), model('new', { status: 'Ready' })))), []);
  const cancelled = hear(withModels(model('a', { status: 'Downloading' })), statusChanged('a', 'Available'));
  const deleted = hear(withModels(model('a', { status: 'Ready' })), statusChanged('a', 'Available'));
  const lost = hear(withModels(model('a', { status: 'Ready' })), statusChanged('a', 'Error'));
  equal([told(cancelled), told(deleted), told(lost)], [[], [], []]);
});

test('a node that goes and comes back is told once each', () => {
  const gone = hear(held('ready'), nodeChanged('n', [onNode('a', 'ready')], { status: 'offline' }));
  equal(told(gone), ['error toast.offline name of n']);
  const again = hear(gone, nodeChanged('n', [onNode('a', 'ready')], { status: 'offline' }));
  equal(told(again).length, 1);
  const back = reduce(again, nodes(node('n')));
  equal(told(back), ['success toast.online name of n'], 'it is not away any more');
});

test('a node that is removed takes along what was told of it', () => {
  const gone = hear(held('ready'), nodeChanged('n', [], { status: 'offline' }));
  equal(told(hear(gone, nodeChanged('n', [], { status: 'removed' }))), []);
  equal(told(reduce(gone, nodes(node('m', { status: 'joining' })))), []);
});

test('a node that has joined is told once it is online, not before', () => {
  const joining = after(held('ready'), nodes(node('n'), node('m', { status: 'joining' })));
  equal(told(joining), []);
  equal(told(hear(joining, nodeChanged('m'))), ['success toast.joined name of m']);
  equal(told(reduce(held('ready'), nodes(node('n'), node('m')))), ['success toast.joined name of m']);
});

test('the first node, and that of the balancer itself, join nothing', () => {
  equal(told(after(signedIn, nodes(), nodes(node('n')))), []);
  const own = node('own', { reach: { way: 'local', answer_ms: 0 } });
  equal(
    told(
      after(signedIn, nodes(node('n', { status: 'offline' })), nodes(own, node('n', { status: 'offline' }))),
    ),
    [],
  );
});

test('a retry that succeeds takes the place of the failure', () => {
  const loadError = hear(withModels(model('a', { status: 'Downloading' })), statusChanged('a', 'Error'));
  equal(told(loadError), ['error toast.failed Name of a']);
  equal(told(hear(hear(loadError, downloading('a', 0.5)), statusChanged('a', 'Ready'))), [
    'success toast.ready Name of a',
  ]);
});

test('an action that is not known is an error', () => fails(() => reduceIt(initialState(), { type: 'x' })));

test('samples from before the page was opened precede those of events', () => {
  const point = (at) => ({
    at,
    active_requests: 1,
    tokens_per_second: 2,
    cpu_usage: 0.1,
    memory_usage: 0.2,
  });
  const charts = { type: 'charts', series: [{ id: 'n', points: [point(1), point(2), point(9e9)] }] };
  const beat = (seq) => ({
    type: 'MetricsUpdated',
    seq,
    at: 1e9 + seq,
    node_id: 'n',
    request_count: 0,
    active_requests: 0,
    tokens_per_second: 0,
  });
  const times = (state) => state.traffic.get('n').history.map(({ at }) => at);
  const live = { type: 'events', events: [beat(1), beat(2)] };
  const late = reduce(reduce(initialState(), live), charts);
  equal(times(late), [1000, 2000, 1e9 + 1, 1e9 + 2]);
  const early = reduce(reduce(initialState(), { ...charts, series: [{ id: 'n', points: [point(1)] }] }), live);
  equal(times(early), [1000, 1e9 + 1, 1e9 + 2]);
});
