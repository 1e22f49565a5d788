/** Keeps the store in sync with the server: refetches data that events made stale. There is no polling. */

import { openSocket } from './socket.js';

const REQUEST_TIMEOUT_MS = 15_000;
// Events arrive in bursts; one request serves a whole burst.
const DEBOUNCE_MS = 150;
// With more stale models than this, the whole list is fetched instead.
const MAX_SINGLE_REQUESTS = 4;

/** `onUpgrade` is called when the server's version differs from the first one seen. */
export function createDataSync({ api, store, onUpgrade }) {
  // Per pending request: the events received since it was sent.
  const eventLogs = new Set();
  let socket = null;
  let version = null;
  let refreshTimer = 0;
  // Answers to changes that the user has made.
  let changes = 0;

  async function request(path, action) {
    const [askedIn, changesBefore] = [socket, changes];
    const log = [];
    eventLogs.add(log);
    try {
      const response = await api.get(path, { signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS) });
      // An answer that arrives after the user has signed out must not be shown.
      if (socket !== askedIn) return;
      // It may be older than a change that the user has made since.
      if (changes !== changesBefore) await request(path, action);
      else store.dispatch({ ...action(response), after: log });
    } finally {
      eventLogs.delete(log);
    }
  }

  const fetchModels = () => request('/api/models', ({ models }) => ({ type: 'models', models }));
  const fetchNodes = () => request('/api/nodes', ({ nodes }) => ({ type: 'nodes', nodes }));
  const fetchModel = (id) =>
    request(`/api/models/${encodeURIComponent(id)}`, (model) => ({ type: 'model', model }));
  const fetchSystem = () => request('/api/system', (system) => ({ type: 'system', system }));

  async function reloadAll() {
    const askedIn = socket;
    try {
      await Promise.all([fetchModels(), fetchNodes(), fetchSystem()]);
    } catch (error) {
      if (socket === askedIn) store.dispatch({ type: 'loadError', error });
    } finally {
      scheduleRefresh();
    }
  }

  /** Shows the data that boot.js requested, until the answers after Hello arrive, which miss no event. */
  async function showEarly() {
    if (!api.isEarly('/api/models')) return;
    try {
      const [models, nodes] = await Promise.all([api.get('/api/models'), api.get('/api/nodes')]);
      if (store.state.models || !socket) return;
      store.dispatch({ type: 'models', ...models });
      store.dispatch({ type: 'nodes', ...nodes });
    } catch {
      // The requests after Hello report the error.
    }
  }

  function scheduleRefresh() {
    const { stale } = store.state;
    if (refreshTimer || (!stale.models.size && !stale.nodes)) return;
    refreshTimer = setTimeout(refresh, DEBOUNCE_MS);
  }

  async function refresh() {
    const { stale } = store.state;
    store.dispatch({ type: 'refreshStarted' });
    const requests =
      stale.models.size > MAX_SINGLE_REQUESTS ? [fetchModels()] : [...stale.models].map(fetchModel);
    if (stale.nodes) requests.push(fetchNodes());
    // A failed request is repeated with the full reload after reconnecting.
    await Promise.allSettled(requests);
    refreshTimer = 0;
    scheduleRefresh();
  }

  return {
    reloadAll,
    /** Shows the server's answer to a change. */
    showChanged(model) {
      changes += 1;
      store.dispatch({ type: 'model', model });
    },
    start() {
      if (!socket) showEarly();
      socket ??= openSocket('/ws/models', {
        onHello(event) {
          if (event.version) {
            if (version && version !== event.version) onUpgrade();
            version = event.version;
          }
          reloadAll();
        },
        onEvents(events) {
          for (const log of eventLogs) log.push(...events);
          store.dispatch({ type: 'events', events });
          scheduleRefresh();
        },
        onStatus: (connection) => store.dispatch({ type: 'connection', connection }),
        async onLost() {
          // A rejected WebSocket does not reveal the reason; an HTTP request does.
          await api.get('/api/auth/me', { signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS) }).catch(() => {});
          return store.state.me !== null;
        },
      });
    },
    stop() {
      socket?.stop();
      socket = null;
      clearTimeout(refreshTimer);
      refreshTimer = 0;
    },
    /** Fetches the data of charts from before this page was opened. Without it they begin now. */
    async loadCharts() {
      try {
        const { series } = await api.get('/api/charts?by=node&span=recent');
        store.dispatch({ type: 'charts', series });
      } catch {
        // The next page that shows a chart asks again.
      }
    },
    reconnect: () => socket?.reconnect(),
  };
}
