/** Sample API responses and events, with defaults for fields that a test does not care about. */

export const model = (id, changes = {}) => ({
  model: {
    id,
    name: `Name of ${id}`,
    repo: `test/${id}`,
    description: '',
    size_bytes: 1000,
    required_memory_bytes: 2000,
    parameter_count: '1B',
    quantization: 'Q4_K_M',
    context_length: 2048,
    capabilities: ['TextGeneration'],
    tags: [],
  },
  status: 'Available',
  supported: true,
  hf_stats: null,
  download_progress: null,
  downloaded_bytes: null,
  total_bytes: null,
  bytes_per_second: null,
  eta_seconds: null,
  available_nodes: 0,
  replicas: [],
  fit: { verdict: 'fits', required_bytes: 2000, available_bytes: 9000, node_name: 'attic' },
  error: null,
  ...changes,
});

export const replica = (nodeId, state, changes = {}) => ({
  node_id: nodeId,
  node_name: `name of ${nodeId}`,
  state,
  progress: null,
  error: null,
  path: null,
  engine: null,
  last_used: null,
  ...changes,
});

export const engine = (modelId, state, changes = {}) => ({
  model_id: modelId,
  state,
  slots: 4,
  busy: 0,
  context_length: 2048,
  memory_bytes: 100,
  progress: null,
  error: null,
  pinned: false,
  ...changes,
});

export const node = (id, changes = {}) => ({
  id,
  name: `name of ${id}`,
  status: 'online',
  draining: false,
  tags: [],
  reach: { way: 'direct', answer_ms: 0.5 },
  meters: { cpu_usage: 0.1, memory_usage: 0.2, gpu_usage: null, gpu_memory_usage: null },
  memory_budget_bytes: 9000,
  memory_used_bytes: 0,
  disk_free_bytes: 10_000,
  active_requests: 0,
  slots: 4,
  engines: [],
  replicas: [],
  ...changes,
});

let seq = 0;

/** Next event of a connection, with the next `seq`. */
export const event = (type, fields = {}) => ({ type, seq: (seq += 1), at: 1_000_000 + seq, ...fields });

export const statusChanged = (id, status, fields = {}) =>
  event('ModelStatusChanged', {
    model_id: id,
    status,
    progress: null,
    downloaded_bytes: null,
    total_bytes: null,
    bytes_per_second: null,
    eta_seconds: null,
    available_nodes: 0,
    error: null,
    ...fields,
  });

export const downloading = (id, progress, fields = {}) =>
  statusChanged(id, 'Downloading', {
    progress,
    downloaded_bytes: progress * 1000,
    total_bytes: 1000,
    bytes_per_second: 50,
    eta_seconds: 3,
    ...fields,
  });

export const nodeChanged = (id, models = [], fields = {}) =>
  event('NodeStatusChanged', {
    node_id: id,
    name: `name of ${id}`,
    status: 'online',
    draining: false,
    tags: [],
    reach: { way: 'direct', answer_ms: 0.5 },
    models,
    ...fields,
  });

export const onNode = (id, state, engineState = null, progress = null) => ({
  model_id: id,
  lifecycle_status: state,
  engine: engineState,
  engine_progress: progress,
  download: null,
});

/** Model that a node is downloading: `got` of 1000 bytes. */
export const comingTo = (id, got, fields = {}) => ({
  ...onNode(id, 'downloading'),
  download: { downloaded_bytes: got, total_bytes: 1000, bytes_per_second: 50, error: null, ...fields },
});

export const metrics = (id, fields = {}) =>
  event('MetricsUpdated', {
    node_id: id,
    cpu_usage: 0.5,
    memory_usage: 0.6,
    gpu_usage: 0.7,
    gpu_memory_usage: 0.8,
    memory_used_bytes: 700,
    disk_free_bytes: 800,
    slots: 8,
    request_count: 0,
    active_requests: 0,
    tokens_per_second: 0,
    ...fields,
  });
