/** core/data-sync.js: refetches what an event has made stale, without polling. */

import { createStore } from '/web/core/store.js';
import { createDataSync } from '/web/core/data-sync.js';
import { withFakes } from './fakes.js';
import { equal, ok, test } from './runner.js';
import { model, node } from './samples.js';

/** API controlled by the test: `asked` holds the pending requests. */
class FakeApi {
  paths = [];
  early = [];

  isEarly = (path) => this.early.includes(path);

  asked = [];

  get = (path) =>
    new Promise((resolve, reject) => {
      this.paths.push(path);
      this.asked.push({ path, resolve, reject });
    });

  /** Answers pending requests from `answers`: path → response; an Error rejects. */
  async answer(answers = ANSWERS) {
    for (const { path, resolve, reject } of this.asked.splice(0)) {
      const answer = answers[path] ?? answers.other?.(path);
      if (answer instanceof Error) reject(answer);
      else resolve(structuredClone(answer));
    }
  }

  /** Paths requested since the last call. */
  news() {
    return this.paths.splice(0).sort();
  }
}

const ANSWERS = {
  '/api/models': { models: ['a', 'b', 'c', 'd', 'e', 'f'].map((id) => model(id)) },
  '/api/nodes': { nodes: [node('n')] },
  '/api/system': { version: '1' },
  '/api/auth/me': { kind: 'session' },
  other: (path) => model(decodeURIComponent(path.split('/').at(-1))),
};
const EVERYTHING = ['/api/models', '/api/nodes', '/api/system'];

/** Signed-in page that has received Hello and the first responses. */
const withDataSync = (run) =>
  withFakes(async (fakes) => {
    const api = new FakeApi();
    const store = createStore((work) => work());
    const upgrades = [];
    const sync = createDataSync({ api, store, onUpgrade: () => upgrades.push(true) });
    store.dispatch({ type: 'me', me: { kind: 'session' } });
    sync.start();
    const { sockets, clock } = fakes;
    let seq = 0;
    const tell = (type, fields = {}) => sockets.at(-1).tell({ type, seq: (seq += 1), ...fields });
    tell('Hello', { version: '1' });
    await clock.pass(20);
    try {
      await run({ ...fakes, api, store, sync, tell, upgrades, restart: () => (seq = 0) });
    } finally {
      sync.stop();
    }
    await clock.pass(1000);
    equal(clock.waiting, 0, 'timers are left after stop()');
  });

const changed = (id, status = 'Ready') => ({
  model_id: id,
  status,
  progress: null,
  downloaded_bytes: null,
  total_bytes: null,
  bytes_per_second: null,
  eta_seconds: null,
  available_nodes: 0,
  error: null,
});

test('what boot.js has asked for is shown before Hello, and no later', () =>
  withFakes(async ({ sockets, clock }) => {
    const api = new FakeApi();
    api.early = ['/api/models'];
    const store = createStore((work) => work());
    const sync = createDataSync({ api, store, onUpgrade() {} });
    sync.start();
    equal(api.news(), ['/api/models', '/api/nodes']);
    const early = api.asked.splice(0);
    await api.answer();
    sockets.at(-1).tell({ type: 'Hello', seq: 1, version: '1' });
    await clock.pass(20);
    equal(api.news(), EVERYTHING);
    await api.answer();
    await clock.pass(20);
    const { models } = store.state;
    equal(models.size, 6);
    api.asked = early;
    await api.answer({ '/api/models': { models: [] }, '/api/nodes': { nodes: [] } });
    await clock.pass(20);
    ok(store.state.models === models, 'an earlier answer replaced a later one');
    sync.stop();
  }));

test('Hello has everything asked for, once', () =>
  withDataSync(async ({ api, store, clock }) => {
    equal(api.news(), EVERYTHING);
    await api.answer();
    await clock.pass(60_000);
    equal([store.state.models.size, store.state.nodes.size, store.state.system.version], [6, 1, '1']);
  }));

test('with nothing heard nothing is asked', () =>
  withDataSync(async ({ api, clock, tell }) => {
    await api.answer();
    api.news();
    for (let at = 0; at < 100; at += 1) {
      await clock.pass(5000);
      tell('Unknown');
    }
    equal(api.news(), []);
  }));

test('start() twice is one connection', () =>
  withDataSync(async ({ sync, sockets }) => {
    sync.start();
    equal(sockets.length, 1);
  }));

test('what one event outdates is asked for by itself', () =>
  withDataSync(async ({ api, clock, tell, store }) => {
    await api.answer();
    api.news();
    tell('ModelStatusChanged', changed('a'));
    await clock.pass(20);
    equal(api.news(), [], 'events come in groups');
    await clock.pass(150);
    equal(api.news(), ['/api/models/a']);
    equal(store.state.stale.models.size, 0);
    await api.answer();
    await clock.pass(1000);
    equal(api.news(), []);
  }));

test('a group of events is one question each; many models are one list', () =>
  withDataSync(async ({ api, clock, tell }) => {
    await api.answer();
    api.news();
    for (const id of ['a', 'b', 'c', 'd']) tell('ModelStatusChanged', changed(id));
    tell('NodeStatusChanged', { node_id: 'new', name: 'new', status: 'online', draining: false, models: [] });
    await clock.pass(200);
    equal(api.news(), ['/api/models/a', '/api/models/b', '/api/models/c', '/api/models/d', '/api/nodes']);
    await api.answer({ ...ANSWERS, '/api/nodes': { nodes: [node('n'), node('new')] } });
    await clock.pass(20);
    for (const id of ['a', 'b', 'c', 'd', 'e']) tell('ModelStatusChanged', changed(id, 'Error'));
    await clock.pass(200);
    equal(api.news(), ['/api/models']);
    await api.answer();
  }));

test('an id is escaped in its address', () =>
  withDataSync(async ({ api, clock, tell }) => {
    await api.answer({ ...ANSWERS, '/api/models': { models: [model('a/b?c')] } });
    await clock.pass(20);
    api.news();
    tell('ModelStatusChanged', changed('a/b?c'));
    await clock.pass(200);
    equal(api.news(), ['/api/models/a%2Fb%3Fc']);
    await api.answer();
  }));

test('one question at a time: what is outdated meanwhile is asked after the answer', () =>
  withDataSync(async ({ api, clock, tell }) => {
    await api.answer();
    api.news();
    tell('ModelStatusChanged', changed('a'));
    await clock.pass(200);
    tell('ModelStatusChanged', changed('a', 'Error'));
    tell('ModelStatusChanged', changed('b'));
    await clock.pass(1000);
    equal(api.news(), ['/api/models/a']);
    await api.answer();
    await clock.pass(200);
    equal(api.news(), ['/api/models/a', '/api/models/b']);
    await api.answer();
  }));

test('an answer that is older than an event does not undo it', () =>
  withDataSync(async ({ api, clock, tell, store }) => {
    tell('ModelStatusChanged', changed('a', 'Registered'));
    await clock.pass(20);
    await api.answer();
    await clock.pass(20);
    equal(store.state.models.get('a').status, 'Registered');
    api.news();
    await clock.pass(200);
    equal(api.news(), ['/api/models/a'], 'what the event outdates is asked for after the first answer');
    await api.answer({ other: () => model('a', { status: 'Registered' }) });
  }));

test('what was heard before the question is not applied to its answer', () =>
  withDataSync(async ({ api, clock, tell, store }) => {
    await api.answer();
    tell('ModelStatusChanged', changed('a', 'Registered'));
    await clock.pass(200);
    await api.answer({ other: () => model('a', { status: 'Ready' }) });
    await clock.pass(20);
    equal(store.state.models.get('a').status, 'Ready');
  }));

test('a first answer that does not come is told; the next Hello repairs it', () =>
  withDataSync(async ({ api, clock, store, sockets, tell, restart }) => {
    const error = new Error('away');
    await api.answer({ ...ANSWERS, '/api/nodes': error });
    await clock.pass(20);
    ok(store.state.loadError === error);
    sockets.at(-1).end();
    await clock.pass(500);
    await api.answer();
    restart();
    api.news();
    tell('Hello', { version: '1' });
    equal(api.news(), EVERYTHING);
    await api.answer();
    await clock.pass(20);
    equal([store.state.loadError, store.state.nodes.size], [null, 1]);
  }));

test('a question that fails is not asked again and again', () =>
  withDataSync(async ({ api, clock, tell }) => {
    await api.answer();
    api.news();
    tell('ModelStatusChanged', changed('a'));
    await clock.pass(200);
    await api.answer({ other: () => new Error('away') });
    await clock.pass(60_000 / 5);
    equal(api.news(), ['/api/models/a']);
  }));

test('Resync asks for everything again', () =>
  withDataSync(async ({ api, tell }) => {
    await api.answer();
    api.news();
    tell('Resync');
    equal(api.news(), EVERYTHING);
    await api.answer();
  }));

test('a server that restarts its count is heard', () =>
  withDataSync(async ({ api, clock, tell, store, sockets, restart }) => {
    await api.answer();
    for (let at = 0; at < 50; at += 1) tell('Unknown');
    sockets.at(-1).end();
    equal(store.state.connection.status, 'disconnected');
    await clock.pass(500);
    await api.answer();
    restart();
    tell('Hello', { version: '1' });
    tell('ModelStatusChanged', changed('a', 'Registered'));
    await clock.pass(20);
    equal(store.state.models.get('a').status, 'Registered');
    await api.answer();
  }));

test('another version of the server is told once it answers', () =>
  withDataSync(async ({ api, clock, tell, upgrades, sockets }) => {
    await api.answer();
    for (const version of ['1', '1', '2']) {
      sockets.at(-1).end();
      await clock.pass(500);
      await api.answer();
      tell('Hello', { version });
    }
    equal(upgrades.length, 1);
    await api.answer();
  }));

test('a lost connection asks who is there; signed out, it is over', () =>
  withDataSync(async ({ api, clock, store, sockets, sync }) => {
    await api.answer();
    api.news();
    sockets.at(-1).end();
    equal(api.news(), ['/api/auth/me']);
    store.dispatch({ type: 'signedOut' });
    sync.stop();
    await api.answer({ '/api/auth/me': new Error('401') });
    await clock.pass(60_000);
    equal([sockets.length, api.news()], [1, []]);
    store.dispatch({ type: 'me', me: { kind: 'session' } });
    sync.start();
    equal(sockets.length, 2, 'and can be started again');
  }));

test('stopped in a pause it asks nothing, started again it does', () =>
  withDataSync(async ({ api, clock, tell, sync, store, restart }) => {
    await api.answer();
    api.news();
    tell('ModelStatusChanged', changed('a'));
    await clock.pass(20);
    sync.stop();
    await clock.pass(1000);
    equal(api.news(), []);
    store.dispatch({ type: 'refreshStarted' });
    sync.start();
    restart();
    tell('Hello', { version: '1' });
    await api.answer();
    await clock.pass(20);
    api.news();
    tell('ModelStatusChanged', changed('b'));
    await clock.pass(200);
    equal(api.news(), ['/api/models/b']);
    await api.answer();
  }));

test('reconnect() is for a connection that is lost', () =>
  withDataSync(async ({ api, clock, sockets, sync }) => {
    sync.reconnect();
    equal(sockets.length, 1);
    sockets[0].end();
    await api.answer();
    sync.reconnect();
    equal(sockets.length, 2);
    await clock.pass(1);
    sync.stop();
    sync.reconnect();
    equal(sockets.length, 2);
  }));

test('what is answered after the user has signed out belongs to nobody', () =>
  withDataSync(async ({ api, store, sync, clock }) => {
    for (const answers of [ANSWERS, { '/api/models': new Error('late'), '/api/nodes': new Error('late') }]) {
      sync.reloadAll();
      sync.stop();
      store.dispatch({ type: 'signedOut' });
      await api.answer(answers);
      await clock.settled();
      equal([store.state.models, store.state.loadError], [null, null]);
      sync.start();
    }
  }));

test('an answer that is older than a change of the user does not undo it', () =>
  withDataSync(async ({ api, store, sync, clock }) => {
    await api.answer();
    await clock.pass(20);
    api.news();
    sync.reloadAll();
    sync.showChanged(model('a', { pinned: true }));
    await api.answer();
    await clock.settled();
    equal(store.state.models.get('a').pinned, true);
    equal(api.news(), [...EVERYTHING, ...EVERYTHING].sort());
    await api.answer({ ...ANSWERS, '/api/models': { models: [model('a', { pinned: true })] } });
    await clock.settled();
    equal(store.state.models.get('a').pinned, true);
  }));
