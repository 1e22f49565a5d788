/** What a node downloads now, with the freshest numbers that are known. Pure. */

const MOVING = new Set(['wanted', 'downloading', 'verifying']);

const isMoving = ({ state }) => MOVING.has(state);

/** [{id, state, got, total, rate, left, error}]: bytes, bytes a second, seconds; null where nobody knows. */
export function downloadsOf({ models }, node) {
  return node.replicas.filter(isMoving).map((replica) => {
    const model = models?.get(replica.model_id);
    // Events carry a model's figures, four times a second; they are this node's as long as no other pulls it, too.
    const live = model?.status === 'Downloading' && model.replicas.filter(isMoving).length <= 1 ? model : null;
    return {
      id: replica.model_id,
      state: replica.state,
      got: live?.downloaded_bytes ?? replica.downloaded_bytes,
      total: live?.total_bytes ?? replica.total_bytes,
      rate: live ? live.bytes_per_second : replica.bytes_per_second,
      left: live?.eta_seconds ?? null,
      error: live ? live.error : replica.error,
    };
  });
}
