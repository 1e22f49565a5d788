/** The WebSocket: connects, notices when it has gone silent, comes back with back-off and jitter. */

const FIRST_DELAY_MS = 500;
const LONGEST_DELAY_MS = 15_000;
const HIDDEN_MS = 250; // a hidden page has no frames, and its events must not pile up
export const SILENCE_MS = 15_000; // a node's heartbeat comes every 5 s, so silence means that nobody is there

/** How long to wait before attempt `failures` + 1: doubling, at most 15 s, and half of it at random. */
export function delayBefore(failures, random = Math.random) {
  const full = Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** Math.min(failures, 10));
  return full / 2 + (full / 2) * random();
}

/**
 * Follow `path` until `stop()`.
 *
 *   onHello(event)     connected, or told to begin anew: everything has to be asked for again
 *   onEvents(events)   what came since the last frame
 *   onStatus(live)     {status: connecting | live | waiting, since, retryAt}
 *   onLost()           the connection ended; resolves to false where trying again makes no sense
 */
export function follow(path, { onHello, onEvents, onStatus, onLost }) {
  let socket = null;
  let failures = 0;
  let stopped = false;
  let retry = 0;
  let watch = 0;
  let frame = 0;
  let heard = [];
  let since = null;

  const flush = () => {
    frame = 0;
    const events = heard;
    heard = [];
    if (events.length && !stopped) onEvents(events);
  };

  const alive = () => {
    clearTimeout(watch);
    watch = setTimeout(() => socket?.close(), SILENCE_MS);
  };

  function connect() {
    if (stopped) return;
    clearTimeout(retry);
    onStatus({ status: 'connecting', since, retryAt: null });
    const opened = new WebSocket(new URL(path, location.href.replace(/^http/, 'ws')));
    socket = opened;
    alive();
    opened.onmessage = ({ data }) => {
      if (opened !== socket) return;
      alive();
      const event = { ...JSON.parse(data), at: Date.now() };
      if (event.type === 'Hello' || event.type === 'Resync') {
        failures = 0;
        since = null;
        if (event.type === 'Hello') onStatus({ status: 'live', since: event.at, retryAt: null });
        onHello(event);
      }
      heard.push(event);
      frame ||= document.hidden ? setTimeout(flush, HIDDEN_MS) : requestAnimationFrame(flush);
    };
    opened.onclose = () => opened === socket && lost();
  }

  async function lost() {
    socket = null;
    clearTimeout(watch);
    flush(); // the next connection counts anew: what waits for its frame belongs to this one
    since ??= Date.now();
    const delay = delayBefore(failures);
    failures += 1;
    onStatus({ status: 'waiting', since, retryAt: Date.now() + delay });
    retry = setTimeout(connect, delay);
    if (!(await onLost())) stop();
  }

  const now = () => {
    if (document.hidden) flush();
    if (socket || stopped || document.hidden) return;
    failures = 0;
    connect();
  };

  function stop() {
    stopped = true;
    clearTimeout(retry);
    clearTimeout(watch);
    removeEventListener('online', now);
    document.removeEventListener('visibilitychange', now);
    const last = socket;
    socket = null;
    last?.close();
  }

  // Whoever comes back to the page, or to the network, does not want to wait out a back-off.
  addEventListener('online', now);
  document.addEventListener('visibilitychange', now);
  connect();
  return { stop, reconnect: now };
}
