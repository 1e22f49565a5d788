/** Keeps the store true: asks the API for what an event has outdated, never by the clock. */

import { follow } from './socket.js';

const ANSWER_WITHIN_MS = 15_000;
const PAUSE_MS = 150; // events come in groups; one question answers them all
const ONE_BY_ONE = 4; // more outdated models than that: ask for the list

/** `onUpgrade` is called when the server that answers is of another version than at first. */
export function makeSync({ api, store, onUpgrade }) {
  const logs = new Set(); // of each open question, the events heard since
  let following = null;
  let version = null;
  let pause = 0;

  async function ask(path, action) {
    const log = [];
    logs.add(log);
    try {
      const answer = await api.get(path, { signal: AbortSignal.timeout(ANSWER_WITHIN_MS) });
      store.dispatch({ ...action(answer), after: log });
    } finally {
      logs.delete(log);
    }
  }

  const askModels = () => ask('/api/models', ({ models }) => ({ type: 'models', models }));
  const askNodes = () => ask('/api/nodes', ({ nodes }) => ({ type: 'nodes', nodes }));
  const askModel = (id) => ask(`/api/models/${encodeURIComponent(id)}`, (model) => ({ type: 'model', model }));
  const askSystem = () => ask('/api/system', (system) => ({ type: 'system', system }));

  async function everything() {
    try {
      await Promise.all([askModels(), askNodes(), askSystem()]);
    } catch (error) {
      store.dispatch({ type: 'failed', error });
    } finally {
      refreshSoon();
    }
  }

  function refreshSoon() {
    const { stale } = store.state;
    if (pause || (!stale.models.size && !stale.nodes)) return;
    pause = setTimeout(refresh, PAUSE_MS);
  }

  async function refresh() {
    const { stale } = store.state;
    store.dispatch({ type: 'asked' });
    const questions = stale.models.size > ONE_BY_ONE ? [askModels()] : [...stale.models].map(askModel);
    if (stale.nodes) questions.push(askNodes());
    // A question that fails is asked again with everything else when the connection is back.
    await Promise.allSettled(questions);
    pause = 0;
    refreshSoon();
  }

  return {
    everything,
    start() {
      following ??= follow('/ws/models', {
        onHello(event) {
          if (event.version) {
            if (version && version !== event.version) onUpgrade();
            version = event.version;
          }
          everything();
        },
        onEvents(events) {
          for (const log of logs) log.push(...events);
          store.dispatch({ type: 'events', events });
          refreshSoon();
        },
        onStatus: (live) => store.dispatch({ type: 'live', live }),
        async onLost() {
          // A refused WebSocket says nothing of the reason; a request does.
          await api.get('/api/auth/me', { signal: AbortSignal.timeout(ANSWER_WITHIN_MS) }).catch(() => {});
          return store.state.me !== null;
        },
      });
    },
    stop() {
      following?.stop();
      following = null;
      clearTimeout(pause);
      pause = 0;
    },
    reconnect: () => following?.reconnect(),
  };
}
