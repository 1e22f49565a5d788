/**
 * Reducer of the page's state. Pure: no clock, no network, no document.
 *
 *   models      id → ModelWithStatus of the API in catalogue order, or null before the first response
 *   nodes       id → NodeView of the API, or null before the first response
 *   traffic     node id → latest request metrics, and `history`, the most recent of them
 *   connection  state of the WebSocket
 *   stale       {models: Set of ids, nodes: boolean}: what has to be fetched again after an event
 *   ownAnswers  number of answers that the Playground is generating for this user
 *   endpointChanges  number of events about endpoints so far
 *   toasts      messages to show, oldest first
 */

import { keepEqual } from '../lib/keep-equal.js';
import { addToast, UNDER_WAY, withToasts } from './toasts.js';

// Data points kept per node: 15 minutes of heartbeats.
export const HISTORY_LENGTH = 180;

export const initialState = () => ({
  // `me` is null when signed out; `sessionEnded` is true if the server ended the session.
  me: undefined,
  sessionEnded: false,
  system: null,
  models: null,
  nodes: null,
  // Why the first load failed.
  loadError: null,
  traffic: new Map(),
  // Samples of the server from before this page was opened, by node id.
  charts: new Map(),
  connection: { status: 'connecting', since: null, retryAt: null },
  lastSeq: 0,
  stale: { models: new Set(), nodes: false },
  // Counts the events about endpoints, which their page fetches again.
  endpointChanges: 0,
  // Answers that the Playground is generating for this user, in any browser.
  ownAnswers: 0,
  toasts: [],
  toastCount: 0,
});

const handlers = {
  me: (state, { me }) => ({ ...state, me, sessionEnded: false }),
  signedOut: (_, { sessionEnded = false }) => ({ ...initialState(), me: null, sessionEnded }),
  system: (state, { system }) => ({ ...state, system }),
  loadError: (state, { error }) => ({ ...state, loadError: error }),
  connection: (state, { connection }) => ({
    ...state,
    connection,
    ...(connection.status === 'connected' ? {} : { lastSeq: 0 }),
  }),
  showToast: (state, { toast }) => addToast(state, toast),
  dismissToast: (state, { id }) => ({ ...state, toasts: state.toasts.filter((toast) => toast.id !== id) }),

  /**
   * Full list of the API. `after`: events received since the request was sent, which may be newer than the
   * response.
   */
  models(state, { models, after = [] }) {
    const known = models.map((model) => {
      const before = state.models?.get(model.model.id);
      return [model.model.id, keepEqual(before, keepProgress(before, model))];
    });
    return withToasts(state, applyEvents({ ...state, models: new Map(known), loadError: null }, after));
  },
  model(state, { model, after = [] }) {
    if (!state.models?.has(model.model.id)) return state;
    const models = new Map(state.models);
    const before = models.get(model.model.id);
    models.set(model.model.id, keepEqual(before, keepProgress(before, model)));
    return withToasts(state, applyEvents({ ...state, models }, after));
  },
  nodes(state, { nodes, after = [] }) {
    return withToasts(
      state,
      applyEvents(
        {
          ...state,
          nodes: new Map(nodes.map((node) => [node.id, keepEqual(state.nodes?.get(node.id), node)])),
        },
        after,
      ),
    );
  },
  /** Samples of the last minutes: they precede those that came as events. */
  charts(state, { series }) {
    const charts = new Map(series.map(({ id, points }) => [id, points.map(chartPoint)]));
    const traffic = new Map(state.traffic);
    for (const [id, known] of traffic) {
      const first = known.history[0]?.at ?? Infinity;
      const earlier = (charts.get(id) ?? []).filter(({ at }) => at < first);
      const history = [...earlier, ...known.history].slice(-HISTORY_LENGTH);
      traffic.set(id, { ...known, history });
    }
    return { ...state, charts, traffic };
  },
  refreshStarted: (state) => ({ ...state, stale: { models: new Set(), nodes: false } }),

  /** All events since the last frame, in order. */
  events(state, { events }) {
    const fresh = events.filter((event) => event.seq > state.lastSeq);
    if (!fresh.length) return state;
    return withToasts(state, { ...applyEvents(state, fresh), lastSeq: fresh.at(-1).seq });
  },
};

/** Copy of `state` with `events` applied. Each collection is copied once for all of them. */
function applyEvents(state, events) {
  const next = {
    ...state,
    models: state.models && new Map(state.models),
    nodes: state.nodes && new Map(state.nodes),
    traffic: new Map(state.traffic),
    stale: { models: new Set(state.stale.models), nodes: state.stale.nodes },
  };
  for (const event of events) eventHandlers[event.type]?.(next, event);
  return next;
}

/** Event types of /ws/models. A test compares them with the server's. */
export const eventHandlers = {
  Hello() {},
  Resync() {},

  ModelStatusChanged(next, event) {
    const before = next.models?.get(event.model_id);
    if (!before) return;
    next.models.set(
      event.model_id,
      keepProgress(before, {
        ...before,
        status: event.status,
        download_progress: event.progress,
        downloaded_bytes: event.downloaded_bytes,
        total_bytes: event.total_bytes,
        bytes_per_second: event.bytes_per_second,
        eta_seconds: event.eta_seconds,
        available_nodes: event.available_nodes ?? before.available_nodes,
        error: event.error,
        error_code: event.error_code ?? null,
        pulled: before.status === event.status ? before.pulled : UNDER_WAY.has(before.status),
      }),
    );
    const partial = before.partial?.disk_bytes ?? 0;
    const partialChanged = event.partial_bytes !== undefined && event.partial_bytes !== partial;
    if (before.status !== event.status || partialChanged) next.stale.models.add(event.model_id);
    // The disks of the nodes hold it.
    next.stale.nodes ||= partialChanged;
  },

  AnswersRunning(next, event) {
    next.ownAnswers = event.count;
  },

  EndpointStatusChanged(next) {
    next.endpointChanges += 1;
  },

  ModelStatsUpdated(next, event) {
    const before = next.models?.get(event.model_id);
    if (before) next.models.set(event.model_id, { ...before, hf_stats: event.hf_stats });
  },

  NodeStatusChanged(next, event) {
    if (!next.nodes) return;
    const removed = event.status === 'removed';
    const before = next.nodes.get(event.node_id);
    const reported = new Map(removed ? [] : event.models.map((model) => [model.model_id, model]));
    if (removed) next.nodes.delete(event.node_id);
    else if (before) next.nodes.set(event.node_id, updateNode(before, event, reported));
    // A node that returns may have another version or other hardware; of one that goes offline, the time it
    // was last seen is missing.
    next.stale.nodes ||=
      !removed && !(before && sameReachability(before, event) && sameReplicas(before, reported));
    for (const [id, model] of next.models ?? []) {
      const replica = model.replicas.find((each) => each.node_id === event.node_id);
      const now = reported.get(id);
      if (!replica && !now) continue;
      if (!replica || !now || !sameReplicaState(replica, now)) next.stale.models.add(id);
      if (replica && now) next.models.set(id, withReplica(model, replica, now, event.name));
      else if (replica)
        next.models.set(id, { ...model, replicas: model.replicas.filter((each) => each !== replica) });
    }
  },

  MetricsUpdated(next, event) {
    const before = next.nodes?.get(event.node_id);
    if (before) {
      const meters = {
        cpu_usage: event.cpu_usage,
        memory_usage: event.memory_usage,
        gpu_usage: event.gpu_usage,
        gpu_memory_usage: event.gpu_memory_usage,
      };
      next.nodes.set(event.node_id, {
        ...before,
        meters,
        active_requests: event.active_requests,
        memory_used_bytes: event.memory_used_bytes ?? before.memory_used_bytes,
        disk_free_bytes: event.disk_free_bytes ?? before.disk_free_bytes,
        slots: event.slots ?? before.slots,
      });
    }
    const known = next.traffic.get(event.node_id);
    const history = known?.history ?? next.charts.get(event.node_id) ?? [];
    const last = known?.history.at(-1);
    // The event was already applied to a response.
    if (last?.seq === event.seq) return;
    if (last && (last.requests !== event.request_count || last.active !== event.active_requests)) {
      // A request has finished: busy slots and the time of last use are not part of events, so they have to
      // be fetched.
      next.stale.nodes = true;
      for (const [id, model] of next.models ?? []) {
        if (model.replicas.some((each) => each.node_id === event.node_id && each.engine))
          next.stale.models.add(id);
      }
    }
    const point = {
      seq: event.seq,
      at: event.at,
      requests: event.request_count,
      active: event.active_requests,
      tokensPerSecond: event.tokens_per_second,
      cpu: event.cpu_usage,
      memory: event.memory_usage,
    };
    next.traffic.set(event.node_id, { ...point, history: [...history.slice(1 - HISTORY_LENGTH), point] });
  },
};

const chartPoint = (point) => ({
  at: point.at * 1000,
  active: point.active_requests,
  tokensPerSecond: point.tokens_per_second,
  cpu: point.cpu_usage,
  memory: point.memory_usage,
});

/** State after `action`; the same object if nothing changed. */
export function reduce(state, action) {
  return handlers[action.type](state, action);
}

/** Whether the reducer handles an action; `store.dispatch` rejects others. */
export const isKnownAction = (action) => Object.hasOwn(handlers, action.type);

// --- what follows from a change ----------------------------------------------------------------------

/**
 * Keeps download progress monotonic: events and API responses travel on two connections, so the older one may
 * arrive last.
 */
function keepProgress(before, now) {
  const continues = before?.status === 'Downloading' && now.status === 'Downloading';
  if (!continues || (before.download_progress ?? 0) <= (now.download_progress ?? 0)) return now;
  const { download_progress, downloaded_bytes } = before;
  return { ...now, download_progress, downloaded_bytes };
}

// `lifecycle_status` is the state of the replica until it is ready, and that of its engine from then on.
const REPLICA_STATES = new Set(['wanted', 'downloading', 'verifying', 'ready', 'error', 'deleting', 'gone']);

const replicaState = (now) => (REPLICA_STATES.has(now.lifecycle_status) ? now.lifecycle_status : 'ready');

/** Engine state without the difference between ready and busy, which does not affect its figures. */
const engineLoadState = (engine) => (engine === 'busy' ? 'ready' : (engine ?? null));

/** Whether a replica and its engine are still in the same state, regardless of progress. */
const sameReplicaState = (replica, now) =>
  replica.state === replicaState(now) &&
  engineLoadState(replica.engine?.state) === engineLoadState(now.engine);

function withReplica(model, replica, now, name) {
  const state = replicaState(now);
  const engine = now.engine
    ? {
        ...replica.engine,
        model_id: model.model.id,
        state: now.engine,
        progress: now.engine_progress ?? null,
      }
    : null;
  const { progress, error, error_code } = now.download
    ? updateDownload(replica, state, now.download)
    : replica;
  const changed = { ...replica, node_name: name, state, engine, progress, error, error_code };
  // Keeps the other replicas of the node identical while one is being downloaded.
  if (sameReplica(replica, changed)) return model;
  return { ...model, replicas: model.replicas.map((each) => (each === replica ? changed : each)) };
}

const sameReplica = (a, b) =>
  ['node_name', 'state', 'progress', 'error'].every((field) => a[field] === b[field]) &&
  sameEngine(a.engine, b.engine);

const sameEngine = (a, b) =>
  a === b || (a?.state === b?.state && (a?.progress ?? null) === (b?.progress ?? null));

function updateDownload(replica, state, download) {
  const { downloaded_bytes: downloaded, total_bytes: total, error, error_code = null } = download;
  const share = total ? downloaded / total : 0;
  const progress = state === replica.state ? Math.max(share, replica.progress ?? 0) : share;
  return { progress, error, error_code };
}

/**
 * Node with an event applied; `reported`: what the event says about each model on it. New replicas have to be
 * fetched.
 */
function updateNode(node, { name, status, draining, tags, reach }, reported) {
  const engines = node.engines.flatMap((engine) => {
    const now = reported.get(engine.model_id);
    return now?.engine ? [{ ...engine, state: now.engine, progress: now.engine_progress ?? null }] : [];
  });
  const replicas = node.replicas.flatMap((replica) => {
    const now = reported.get(replica.model_id);
    return now ? [updateReplica(replica, now)] : [];
  });
  return { ...node, name, status, draining, tags, reach, engines, replicas };
}

/** As for a model: progress stays monotonic. */
function updateReplica(replica, now) {
  const state = replicaState(now);
  if (!now.download) return state === replica.state ? replica : { ...replica, state };
  const older = state === replica.state && now.download.downloaded_bytes < replica.downloaded_bytes;
  const figures = older ? { ...now.download, downloaded_bytes: replica.downloaded_bytes } : now.download;
  return { ...replica, state, ...figures };
}

/** Whether the node's details that are not part of events (address, hardware) are still valid. */
const sameReachability = (node, { status, reach }) =>
  node.status === status && node.reach?.way === reach?.way;

/** Whether a node's replicas and engines still match those of an event, regardless of progress. */
function sameReplicas(node, reported) {
  const engines = new Map(node?.engines.map((engine) => [engine.model_id, engine]));
  return (
    node?.replicas.length === reported.size &&
    node.replicas.every((replica) => {
      const now = reported.get(replica.model_id);
      return now && sameReplicaState({ state: replica.state, engine: engines.get(replica.model_id) }, now);
    })
  );
}
