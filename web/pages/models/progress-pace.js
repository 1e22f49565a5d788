/**
 * Pace of progress: with hundreds of downloads a frame draws the new figures of some, the next frame those of
 * others, so that no frame takes long. All other changes are drawn at once. Pure.
 */

// Rows whose figures a frame may change: more than a screen shows.
export const MAX_ROWS_PER_FRAME = 24;

/** `requestFrame()` asks for another frame. */
export function createProgressPace(requestFrame) {
  // Model id → item that its row shows.
  const drawn = new Map();
  // Ids whose figures wait, the longest first.
  const waiting = new Set();
  let turns = new Set();
  let count = 0;

  return {
    beginFrame() {
      // A model that the last frame did not show is gone.
      for (const id of turns) waiting.delete(id);
      turns = new Set([...waiting].slice(0, MAX_ROWS_PER_FRAME));
      count = turns.size;
    },
    /** What the row of `item` shows in this frame: the item, or the one that it showed before. */
    itemToDraw(item) {
      const { id } = item.model;
      const before = drawn.get(id);
      if (before === item) return item;
      if (before && isProgress(before, item) && !turns.has(id)) {
        if (count >= MAX_ROWS_PER_FRAME) {
          waiting.add(id);
          requestFrame();
          return before;
        }
        count += 1;
      }
      waiting.delete(id);
      drawn.set(id, item);
      return item;
    },
  };
}

const FIGURES = ['download_progress', 'downloaded_bytes', 'bytes_per_second', 'eta_seconds', 'replicas'];

/** Whether nothing but the figures of a running download has changed. */
function isProgress(before, now) {
  if (before.status !== 'Downloading' || now.status !== 'Downloading') return false;
  return Object.keys(now).every((name) => before[name] === now[name] || FIGURES.includes(name));
}
