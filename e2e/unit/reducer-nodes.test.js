/** core/reducer.js: events about nodes and their downloads. */

import { after, hear, held, models, nodes, reduce, shownOf, signedIn } from './reducer-steps.js';
import { equal, ok, test } from './runner.js';
import { comingTo, downloading, engine, model, node, nodeChanged, onNode, replica } from './samples.js';

// --- NodeStatusChanged -------------------------------------------------------------------------------

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
  const again = hear(verifying, nodeChanged('n', [comingTo('a', 0)]));
  equal([gotOn(again, 'n'), shareOn(again, 'n')], [0, 0], 'what was wrong is fetched again');
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
