/** Active downloads of a node. Pure. */

const ACTIVE_STATES = new Set(['wanted', 'downloading', 'verifying']);

/**
 * [{id, state, downloaded, total, rate, secondsLeft, error}] in bytes, bytes per second and seconds; null if
 * unknown.
 */
export const activeDownloads = ({ replicas }) =>
  replicas
    .filter(({ state }) => ACTIVE_STATES.has(state))
    .map(
      ({
        model_id: id,
        state,
        downloaded_bytes: downloaded,
        total_bytes: total,
        bytes_per_second: rate,
        error,
      }) => ({
        id,
        state,
        downloaded,
        total,
        rate,
        secondsLeft: rate ? Math.ceil((total - downloaded) / rate) : null,
        error,
      }),
    );
