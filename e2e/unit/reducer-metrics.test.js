/** core/reducer.js: figures of nodes, and notices. */

import { HISTORY_LENGTH, initialState } from '/web/core/reducer.js';
import { after, hear, held, models, nodes, reduce, signedIn, withModels } from './reducer-steps.js';
import { equal, test } from './runner.js';
import {
  downloading,
  engine,
  metrics,
  model,
  node,
  nodeChanged,
  onNode,
  replica,
  statusChanged,
} from './samples.js';

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

test('the end of a pull is told once, whichever message comes first', () => {
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
  const because = { status: 'Error', error: 'the disk is full' };
  const [toast] = reduce(begun, { type: 'model', model: model('a', because) }).toasts;
  equal([toast.key, toast.values.error], ['toast.failed_because', 'the disk is full']);
  equal(toast.href, '/models/a', 'and shows where');
});

test('a pull that ends between two frames is told, too', () => {
  const state = hear(
    withModels(model('a', { status: 'Registered' })),
    downloading('a', 0.5),
    statusChanged('a', 'Ready'),
  );
  equal(told(state), ['success toast.ready Name of a']);
  const whole = [statusChanged('a', 'Registered'), downloading('a', 0.5), statusChanged('a', 'Ready')];
  const from = (status) => told(hear(withModels(model('a', { status })), ...whole));
  equal([from('Available'), from('Error')], [told(state), told(state)], 'all of it between two frames');
  const lost = [statusChanged('a', 'Available'), statusChanged('a', 'Ready')];
  const back = hear(hear(withModels(model('a')), ...whole), ...lost);
  equal(back.toastCount, 1, 'what comes back was not pulled');
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
