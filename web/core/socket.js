/** The WebSocket: connects, notices when it has gone silent, comes back with back-off and jitter. */

const INITIAL_DELAY_MS = 500;
const MAX_DELAY_MS = 15_000;
const HIDDEN_FLUSH_MS = 250; // a hidden page has no frames, and its events must not pile up
export const SILENCE_TIMEOUT_MS = 15_000; // a node's heartbeat comes every 5 s, so silence means that nobody is there

/** How long to wait before attempt `failures` + 1: doubling, at most 15 s, and half of it at random. */
export function delayBefore(failures, random = Math.random) {
  const full = Math.min(MAX_DELAY_MS, INITIAL_DELAY_MS * 2 ** Math.min(failures, 10));
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
export function openSocket(path, { onHello, onEvents, onStatus, onLost }) {
  let socket = null;
  let failures = 0;
  let stopped = false;
  let retryTimer = 0;
  let silenceTimer = 0;
  let frame = 0;
  let pending = [];
  let since = null;

  const flush = () => {
    frame = 0;
    const events = pending;
    pending = [];
    if (events.length && !stopped) onEvents(events);
  };

  const restartSilenceTimer = () => {
    clearTimeout(silenceTimer);
    silenceTimer = setTimeout(() => socket?.close(), SILENCE_TIMEOUT_MS);
  };

  function connect() {
    if (stopped) return;
    clearTimeout(retryTimer);
    onStatus({ status: 'connecting', since, retryAt: null });
    const current = new WebSocket(new URL(path, location.href.replace(/^http/, 'ws')));
    socket = current;
    restartSilenceTimer();
    current.onmessage = ({ data }) => {
      if (current !== socket) return;
      restartSilenceTimer();
      const event = { ...JSON.parse(data), at: Date.now() };
      if (event.type === 'Hello' || event.type === 'Resync') {
        failures = 0;
        since = null;
        if (event.type === 'Hello') onStatus({ status: 'connected', since: event.at, retryAt: null });
        onHello(event);
      }
      pending.push(event);
      frame ||= document.hidden ? setTimeout(flush, HIDDEN_FLUSH_MS) : requestAnimationFrame(flush);
    };
    current.onclose = () => current === socket && onClose();
  }

  async function onClose() {
    socket = null;
    clearTimeout(silenceTimer);
    flush(); // the next connection counts anew: what waits for its frame belongs to this one
    since ??= Date.now();
    const delay = delayBefore(failures);
    failures += 1;
    onStatus({ status: 'disconnected', since, retryAt: Date.now() + delay });
    retryTimer = setTimeout(connect, delay);
    if (!(await onLost())) stop();
  }

  const reconnect = () => {
    if (document.hidden) flush();
    if (socket || stopped || document.hidden) return;
    failures = 0;
    connect();
  };

  function stop() {
    stopped = true;
    clearTimeout(retryTimer);
    clearTimeout(silenceTimer);
    removeEventListener('online', reconnect);
    document.removeEventListener('visibilitychange', reconnect);
    const last = socket;
    socket = null;
    last?.close();
  }

  // Whoever comes back to the page, or to the network, does not want to wait out a back-off.
  addEventListener('online', reconnect);
  document.addEventListener('visibilitychange', reconnect);
  connect();
  return { stop, reconnect: reconnect };
}
