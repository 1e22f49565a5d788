/** Fake clock and fake WebSockets, controlled by the test. `withFakes` restores the real ones. */

/** Runs `test({clock, sockets, page})` with the fakes installed. */
export async function withFakes(test) {
  const clock = new Clock();
  const sockets = [];
  const page = { hidden: false };
  const listening = new Listening();
  const own = {
    setTimeout: globalThis.setTimeout,
    clearTimeout: globalThis.clearTimeout,
    requestAnimationFrame: globalThis.requestAnimationFrame,
    WebSocket: globalThis.WebSocket,
  };
  const { now } = Date;
  clock.settled = () => new Promise((resolve) => own.setTimeout.call(globalThis, resolve, 0));
  globalThis.setTimeout = (work, ms = 0, ...args) => clock.add(() => work(...args), ms);
  globalThis.clearTimeout = (id) => clock.remove(id);
  globalThis.requestAnimationFrame = (work) => clock.add(work, 16);
  globalThis.WebSocket = class extends FakeSocket {
    constructor(url) {
      super(url);
      sockets.push(this);
    }
  };
  Date.now = () => clock.now;
  Object.defineProperty(document, 'hidden', { configurable: true, get: () => page.hidden });
  listening.begin();
  try {
    return await test({ clock, sockets, page, listening });
  } finally {
    listening.end();
    Object.assign(globalThis, own);
    Date.now = now;
    delete document.hidden;
  }
}

class Clock {
  now = 1_000_000;
  #timers = new Map();
  #last = 0;

  add(work, ms) {
    this.#last += 1;
    this.#timers.set(this.#last, { at: this.now + ms, work });
    return this.#last;
  }

  remove(id) {
    this.#timers.delete(id);
  }

  /** Number of pending timers. */
  get waiting() {
    return this.#timers.size;
  }

  /** Advances by `ms`: timers fire at their time, and their promises settle before the next one. */
  async pass(ms) {
    const end = this.now + ms;
    await this.settled();
    for (;;) {
      const [id, timer] = [...this.#timers].sort(([, a], [, b]) => a.at - b.at)[0] ?? [];
      if (!timer || timer.at > end) break;
      this.#timers.delete(id);
      this.now = timer.at;
      timer.work();
      await this.settled();
    }
    this.now = end;
  }
}

class FakeSocket {
  closed = false;

  constructor(url) {
    this.url = String(url);
  }

  /** Called by the page: closes the connection. */
  close() {
    this.end();
  }

  // --- the other end ---

  tell(event) {
    if (!this.closed) this.onmessage?.({ data: JSON.stringify(event) });
  }

  end() {
    if (this.closed) return;
    this.closed = true;
    this.onclose?.({});
  }
}

/** Counts the listeners on window and document. */
class Listening {
  #own = {};
  #known = new Set();

  begin() {
    for (const name of ['addEventListener', 'removeEventListener']) {
      const own = EventTarget.prototype[name];
      const known = this.#known;
      this.#own[name] = own;
      EventTarget.prototype[name] = function counted(type, listener, ...rest) {
        if ((this ?? globalThis) === globalThis || this === document) {
          if (name === 'addEventListener') known.add(`${type} ${idOf(listener)}`);
          else known.delete(`${type} ${idOf(listener)}`);
        }
        return own.call(this ?? globalThis, type, listener, ...rest);
      };
    }
  }

  end() {
    Object.assign(EventTarget.prototype, this.#own);
  }

  get count() {
    return this.#known.size;
  }
}

const ids = new WeakMap();
let lastId = 0;

function idOf(listener) {
  if (!ids.has(listener)) ids.set(listener, (lastId += 1));
  return ids.get(listener);
}
