/** What a node fetches now. Pure. */

const MOVING = new Set(['wanted', 'downloading', 'verifying']);

/** [{id, state, got, total, rate, left, error}]: bytes, bytes a second, seconds; null where nobody knows. */
export const downloadsOf = ({ replicas }) =>
  replicas
    .filter(({ state }) => MOVING.has(state))
    .map(({ model_id: id, state, downloaded_bytes: got, total_bytes: total, bytes_per_second: rate, error }) => ({
      id,
      state,
      got,
      total,
      rate,
      left: rate ? Math.ceil((total - got) / rate) : null,
      error,
    }));
