/** Reconnecting WebSocket: detects silence, reconnects with back-off and jitter. */

import { toBrowserPath } from '../lib/base-path.js';

const INITIAL_DELAY_MS = 500;
const MAX_DELAY_MS = 15_000;
// Hidden pages get no animation frames, and their events must not pile up.
const HIDDEN_FLUSH_MS = 250;
// Nodes send a heartbeat every 5 s, so silence means that the connection is dead.
export const SILENCE_TIMEOUT_MS = 15_000;

/** Delay before attempt `failures` + 1: doubles up to 15 s, half of it random. */
export function delayBefore(failures, random = Math.random) {
  const full = Math.min(MAX_DELAY_MS, INITIAL_DELAY_MS * 2 ** Math.min(failures, 10));
  return full / 2 + (full / 2) * random();
}

/**
 * Connects to `path` until `stop()`.
 *
 *   onHello(event)         connected, or asked to resync: everything has to be fetched again
 *   onEvents(events)       events since the last frame
 *   onStatus(connection)   {status: connecting | connected | disconnected, since, retryAt}
 *   onLost()               connection closed; resolves to false if reconnecting is pointless
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
    const current = new WebSocket(new URL(toBrowserPath(path), location.href.replace(/^http/, 'ws')));
    socket = current;
    restartSilenceTimer();
    current.onmessage = ({ data }) => {
      if (current !== socket) return;
      // Once a frame: two calls for each of a thousand events a second would be felt.
      if (!frame) restartSilenceTimer();
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
    // The next connection restarts the sequence numbers, so pending events have to be delivered first.
    flush();
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

  // Coming back to the page or to the network should not wait for the back-off.
  addEventListener('online', reconnect);
  document.addEventListener('visibilitychange', reconnect);
  connect();
  return { stop, reconnect: reconnect };
}
