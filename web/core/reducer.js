/**
 * What the page knows, and how each thing it hears changes that. Pure: no clock, no network, no document.
 *
 *   models   id → ModelWithStatus of the API, in catalogue order; null until the first answer
 *   nodes    id → NodeView of the API; null until the first answer
 *   traffic  node id → the latest figures of requests, and `history`, the last of them
 *   live     what the WebSocket is doing
 *   stale    {models: Set of ids, nodes: boolean}: what an event has shown to be outdated and is to be asked for again
 *   notices  what a person is to be told, oldest first
 */

import { addToast, withToasts } from './toasts.js';

export const HISTORY_LENGTH = 180; // figures kept of each node: 15 minutes of heartbeats

export const initialState = () => ({
  me: undefined, // null: signed out; `ended`: the server said so, not the person
  sessionEnded: false,
  system: null,
  models: null,
  nodes: null,
  loadError: null, // why the first answer did not come
  traffic: new Map(),
  connection: { status: 'connecting', since: null, retryAt: null },
  lastSeq: 0,
  stale: { models: new Set(), nodes: false },
  toasts: [],
  toastCount: 0,
});

const handlers = {
  me: (state, { me }) => ({ ...state, me, sessionEnded: false }),
  signedOut: (_, { sessionEnded = false }) => ({ ...initialState(), me: null, sessionEnded }),
  system: (state, { system }) => ({ ...state, system }),
  loadError: (state, { error }) => ({ ...state, loadError: error }),
  connection: (state, { connection }) => ({ ...state, connection, ...(connection.status === 'connected' ? {} : { lastSeq: 0 }) }),
  showToast: (state, { toast }) => addToast(state, toast),
  dismissToast: (state, { id }) => ({ ...state, toasts: state.toasts.filter((toast) => toast.id !== id) }),

  /** The API's whole list. `after`: the events heard since it was asked for, which may be newer than the answer. */
  models(state, { models, after = [] }) {
    const known = models.map((model) => [model.model.id, keepProgress(state.models?.get(model.model.id), model)]);
    return withToasts(state, applyEvents({ ...state, models: new Map(known), loadError: null }, after));
  },
  model(state, { model, after = [] }) {
    if (!state.models?.has(model.model.id)) return state;
    const models = new Map(state.models);
    models.set(model.model.id, keepProgress(models.get(model.model.id), model));
    return withToasts(state, applyEvents({ ...state, models }, after));
  },
  nodes(state, { nodes, after = [] }) {
    return withToasts(state, applyEvents({ ...state, nodes: new Map(nodes.map((node) => [node.id, node])) }, after));
  },
  refreshStarted: (state) => ({ ...state, stale: { models: new Set(), nodes: false } }),

  /** Everything that arrived since the last frame, in order. */
  events(state, { events }) {
    const fresh = events.filter((event) => event.seq > state.lastSeq);
    if (!fresh.length) return state;
    return withToasts(state, { ...applyEvents(state, fresh), lastSeq: fresh.at(-1).seq });
  },
};

/** A copy of `state` after `events`; collections are copied once for all of them. */
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

/** The types of /ws/models that the page follows; a test compares them with the server's. */
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
      }),
    );
    if (before.status !== event.status) next.stale.models.add(event.model_id);
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
    // One that comes back may be of another version, or have other hardware; one that goes was heard of a moment ago.
    next.stale.nodes ||= !removed && !(before && sameReachability(before, event) && sameReplicas(before, reported));
    for (const [id, model] of next.models ?? []) {
      const replica = model.replicas.find((each) => each.node_id === event.node_id);
      const now = reported.get(id);
      if (!replica && !now) continue;
      if (!replica || !now || !sameReplicaState(replica, now)) next.stale.models.add(id);
      if (replica && now) next.models.set(id, withReplica(model, replica, now, event.name));
      else if (replica) next.models.set(id, { ...model, replicas: model.replicas.filter((each) => each !== replica) });
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
    const history = next.traffic.get(event.node_id)?.history ?? [];
    const last = history.at(-1);
    if (last?.seq === event.seq) return; // heard a second time, after an answer
    if (last && (last.requests !== event.request_count || last.active !== event.active_requests)) {
      // Something was answered: who is busy, and when a model was last used, is only told when it is asked for.
      next.stale.nodes = true;
      for (const [id, model] of next.models ?? []) {
        if (model.replicas.some((each) => each.node_id === event.node_id && each.engine)) next.stale.models.add(id);
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

/** The state after `action`; the same object where nothing changes. */
export function reduce(state, action) {
  return handlers[action.type](state, action);
}

/** Whether an action is one that the reducer knows: `store.dispatch` refuses others. */
export const isKnownAction = (action) => Object.hasOwn(handlers, action.type);

// --- what follows from a change ----------------------------------------------------------------------

/**
 * A download's numbers never run backwards while it goes on: an event and an answer of the API travel on two
 * connections, and the older may come last.
 */
function keepProgress(before, now) {
  const continues = before?.status === 'Downloading' && now.status === 'Downloading';
  if (!continues || (before.download_progress ?? 0) <= (now.download_progress ?? 0)) return now;
  const { download_progress, downloaded_bytes } = before;
  return { ...now, download_progress, downloaded_bytes };
}

// `lifecycle_status` is the replica's state until it is ready, then its engine's.
const REPLICA_STATES = new Set(['wanted', 'downloading', 'verifying', 'ready', 'error', 'deleting', 'gone']);

const replicaState = (now) => (REPLICA_STATES.has(now.lifecycle_status) ? now.lifecycle_status : 'ready');

/** An engine's state as far as its numbers depend on it: they stay as they are from one request to the next. */
const engineLoadState = (engine) => (engine === 'busy' ? 'ready' : (engine ?? null));

/** Whether what is known of a model's replica is still so, whatever its progress is. */
const sameReplicaState = (replica, now) =>
  replica.state === replicaState(now) && engineLoadState(replica.engine?.state) === engineLoadState(now.engine);

function withReplica(model, replica, now, name) {
  const state = replicaState(now);
  const engine = now.engine
    ? { ...replica.engine, model_id: model.model.id, state: now.engine, progress: now.engine_progress ?? null }
    : null;
  const { progress, error } = now.download ? updateDownload(replica, state, now.download) : replica;
  const changed = { ...replica, node_name: name, state, engine, progress, error };
  if (sameReplica(replica, changed)) return model; // the others on this node stay what they are while one is pulled
  return { ...model, replicas: model.replicas.map((each) => (each === replica ? changed : each)) };
}

const sameReplica = (a, b) =>
  ['node_name', 'state', 'progress', 'error'].every((field) => a[field] === b[field]) && sameEngine(a.engine, b.engine);

const sameEngine = (a, b) => a === b || (a?.state === b?.state && (a?.progress ?? null) === (b?.progress ?? null));

function updateDownload(replica, state, { downloaded_bytes: downloaded, total_bytes: total, error }) {
  const share = total ? downloaded / total : 0;
  return { progress: state === replica.state ? Math.max(share, replica.progress ?? 0) : share, error };
}

/** A node as an event tells it; `there`: what it says of each model on it. What is new there has to be asked for. */
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

/** As for a model: while it goes on, no figure runs backwards. */
function updateReplica(replica, now) {
  const state = replicaState(now);
  if (!now.download) return state === replica.state ? replica : { ...replica, state };
  const older = state === replica.state && now.download.downloaded_bytes < replica.downloaded_bytes;
  const figures = older ? { ...now.download, downloaded_bytes: replica.downloaded_bytes } : now.download;
  return { ...replica, state, ...figures };
}

/** Whether what an event does not tell of a node (its address, its hardware) is still as it was. */
const sameReachability = (node, { status, reach }) => node.status === status && node.reach?.way === reach?.way;

/** Whether a node's replicas and engines are still those of an event's `models`, whatever their progress is. */
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
