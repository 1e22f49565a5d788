/**
 * Lines of one log: the last ones, then new ones, by requests that the server holds until there is a line.
 * `filters`: level, source, q.
 */

import { buildUrl } from '../../core/router.js';

// The server answers after this time without a line.
const WAIT_S = 15;
const FIRST_LINES = 500;
// Older lines are dropped from the page.
const MAX_LINES = 2000;

export function createLogFeed(app, nodeId, filters) {
  const path = `/api/nodes/${encodeURIComponent(nodeId)}/logs`;
  let abort = new AbortController();
  let next = null;

  const feed = {
    lines: [],
    sources: [],
    ready: false,
    error: null,
    isFollowing: true,
    async start() {
      abort = new AbortController();
      const { signal } = abort;
      feed.error = null;
      try {
        while (!signal.aborted) {
          const parameters =
            next === null ? { limit: FIRST_LINES } : { limit: 1000, after: String(next), wait_s: WAIT_S };
          add(await app.api.get(buildUrl(path, { ...filters, ...parameters }), { signal }));
        }
      } catch (error) {
        if (signal.aborted) return;
        feed.error = error;
        app.requestRender();
      }
    },
    /** Whether the end is shown, and stays shown as lines come. */
    setFollowing(value) {
      if (value === feed.isFollowing) return;
      feed.isFollowing = value;
      app.requestRender();
    },
    close: () => abort.abort(),
  };

  function add(page) {
    const isNews = !feed.ready || page.lines.length;
    // The server has started again: its numbers have, too.
    if (next !== null && page.next < next) feed.lines = [];
    feed.lines = [...feed.lines, ...page.lines].slice(-MAX_LINES);
    [feed.sources, feed.ready, next] = [page.sources, true, page.next];
    if (isNews) app.requestRender();
  }

  return feed;
}
