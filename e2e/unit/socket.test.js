/** core/socket.js: the reconnecting WebSocket. */

import { delayBefore, openSocket, SILENCE_TIMEOUT_MS } from '/web/core/socket.js';
import { withFakes } from './fakes.js';
import { equal, ok, test } from './runner.js';

/** Connection with all callbacks recorded. */
function listen(answers = {}) {
  const told = { hello: [], events: [], status: [], lost: 0 };
  const connection = openSocket('/ws/models', {
    onHello: (event) => told.hello.push(event),
    onEvents: (events) => told.events.push(events.map(({ seq }) => seq)),
    onStatus: (live) => told.status.push(live),
    onLost: async () => {
      told.lost += 1;
      return answers.goOn ? answers.goOn() : true;
    },
  });
  return { ...connection, told, statuses: () => told.status.map(({ status }) => status) };
}

test('the delay doubles up to 15 s, half of it by chance', () => {
  equal(
    [0, 1, 2, 3, 4].map((failures) => delayBefore(failures, () => 1)),
    [500, 1000, 2000, 4000, 8000],
  );
  equal(
    [0, 1, 2, 3, 4].map((failures) => delayBefore(failures, () => 0)),
    [250, 500, 1000, 2000, 4000],
  );
  equal(
    [5, 6, 10, 11, 1000, 1e9].map((failures) => delayBefore(failures, () => 1)),
    Array(6).fill(15_000),
  );
  const delays = Array.from({ length: 200 }, () => delayBefore(3));
  ok(delays.every((delay) => delay >= 2000 && delay <= 4000) && new Set(delays).size > 100);
});

test('it connects to the path on its own host', () =>
  withFakes(async ({ sockets }) => {
    const { stop, statuses } = listen();
    equal(
      sockets.map(({ url }) => url),
      [`ws://${location.host}/ws/models`],
    );
    equal(statuses(), ['connecting']);
    stop();
  }));

test('live begins with Hello, not before', () =>
  withFakes(async ({ sockets, clock }) => {
    const { stop, told, statuses } = listen();
    sockets[0].onopen?.();
    equal(statuses(), ['connecting']);
    sockets[0].tell({ type: 'Hello', seq: 1, version: '1' });
    equal(statuses(), ['connecting', 'connected']);
    equal([told.status.at(-1).since, told.hello[0].version], [clock.now, '1']);
    stop();
  }));

test('events are handed over once a frame, in order, with the time', () =>
  withFakes(async ({ sockets, clock }) => {
    const { stop, told } = listen();
    sockets[0].tell({ type: 'Hello', seq: 1 });
    for (let seq = 2; seq <= 5; seq += 1) sockets[0].tell({ type: 'X', seq });
    equal(told.events, []);
    await clock.pass(16);
    sockets[0].tell({ type: 'X', seq: 6 });
    await clock.pass(16);
    equal(told.events, [[1, 2, 3, 4, 5], [6]]);
    await clock.pass(100);
    equal(told.events.length, 2);
    stop();
  }));

test('Resync asks for everything again, without a new connection', () =>
  withFakes(async ({ sockets }) => {
    const { stop, told, statuses } = listen();
    sockets[0].tell({ type: 'Hello', seq: 1 });
    sockets[0].tell({ type: 'Resync', seq: 2 });
    equal(
      [told.hello.map(({ type }) => type), statuses()],
      [
        ['Hello', 'Resync'],
        ['connecting', 'connected'],
      ],
    );
    stop();
  }));

test('a connection that ends is told, and made again', () =>
  withFakes(async ({ sockets, clock }) => {
    const { stop, told, statuses } = listen();
    sockets[0].tell({ type: 'Hello', seq: 1 });
    await clock.pass(60);
    sockets[0].end();
    equal(statuses().at(-1), 'disconnected');
    const { since, retryAt } = told.status.at(-1);
    equal(since, clock.now);
    ok(retryAt > clock.now && retryAt <= clock.now + 500);
    equal(told.lost, 1);
    await clock.pass(500);
    equal([sockets.length, statuses().at(-1)], [2, 'connecting']);
    sockets[1].tell({ type: 'Hello', seq: 1 });
    equal(statuses().at(-1), 'connected');
    stop();
  }));

test('since when it is lost is told as long as it is lost; the pauses grow', () =>
  withFakes(async ({ sockets, clock }) => {
    const { stop, told } = listen();
    sockets[0].tell({ type: 'Hello', seq: 1 });
    sockets[0].end();
    const begun = clock.now;
    const pauses = [];
    for (let attempt = 1; attempt < 9; attempt += 1) {
      const { retryAt } = told.status.at(-1);
      pauses.push(retryAt - clock.now);
      await clock.pass(retryAt - clock.now);
      equal(sockets.length, attempt + 1);
      equal(told.status.at(-1), { status: 'connecting', since: begun, retryAt: null });
      sockets.at(-1).end();
      equal(told.status.at(-1).since, begun);
    }
    pauses.forEach((pause, at) =>
      ok(pause >= Math.min(15_000, 500 * 2 ** at) / 2 && pause <= Math.min(15_000, 500 * 2 ** at)),
    );
    await clock.pass(15_000);
    sockets.at(-1).tell({ type: 'Hello', seq: 1 });
    await clock.pass(1000);
    sockets.at(-1).end();
    ok(told.status.at(-1).retryAt - clock.now <= 500, 'a Hello makes it begin with short pauses again');
    equal(told.status.at(-1).since, clock.now);
    stop();
  }));

test('silence means that nobody is there', () =>
  withFakes(async ({ sockets, clock }) => {
    const { stop, statuses } = listen();
    sockets[0].tell({ type: 'Hello', seq: 1 });
    for (let at = 0; at < 5; at += 1) {
      await clock.pass(SILENCE_TIMEOUT_MS - 1);
      ok(!sockets[0].closed, 'it was cut although it spoke');
      sockets[0].tell({ type: 'X', seq: 2 + at });
    }
    await clock.pass(SILENCE_TIMEOUT_MS);
    ok(sockets[0].closed);
    equal(statuses().at(-1), 'disconnected');
    stop();
  }));

test('a connection that never says Hello is given up', () =>
  withFakes(async ({ sockets, clock }) => {
    const { stop } = listen();
    await clock.pass(SILENCE_TIMEOUT_MS);
    ok(sockets[0].closed);
    await clock.pass(500);
    equal(sockets.length, 2);
    stop();
  }));

test('a connection that is over is not listened to', () =>
  withFakes(async ({ sockets, clock }) => {
    const { stop, told } = listen();
    const [first] = sockets;
    first.tell({ type: 'Hello', seq: 1 });
    const { onmessage, onclose } = first;
    first.end();
    await clock.pass(500);
    sockets[1].tell({ type: 'Hello', seq: 1 });
    const { length } = told.status;
    onmessage({ data: '{"type":"Hello","seq":9}' });
    onclose({});
    equal([told.hello.length, told.status.length, told.lost], [2, length, 1]);
    stop();
  }));

test('what was heard before the end is handed over before the end is told', () =>
  withFakes(async ({ sockets, clock }) => {
    const { stop, told } = listen();
    sockets[0].tell({ type: 'Hello', seq: 1 });
    sockets[0].tell({ type: 'X', seq: 700 });
    sockets[0].end();
    // A connection that restarts its numbering must not receive an event of the previous one.
    equal([told.events, told.status.at(-1).status], [[[1, 700]], 'disconnected']);
    await clock.pass(600);
    equal(told.events.length, 1);
    stop();
  }));

test('a hidden page hands over without frames', () =>
  withFakes(async ({ sockets, clock, page }) => {
    const { stop, told } = listen();
    page.hidden = true;
    sockets[0].tell({ type: 'Hello', seq: 1 });
    sockets[0].tell({ type: 'X', seq: 2 });
    await clock.pass(100);
    equal(told.events, []);
    await clock.pass(150);
    equal(told.events, [[1, 2]]);
    stop();
  }));

test('a page that is hidden before its frame came hands over at once', () =>
  withFakes(async ({ sockets, page }) => {
    const { stop, told } = listen();
    sockets[0].tell({ type: 'Hello', seq: 1 });
    page.hidden = true;
    document.dispatchEvent(new Event('visibilitychange'));
    equal(told.events, [[1]]);
    stop();
  }));

test('returning to the page, or to the network, reconnects at once', () =>
  withFakes(async ({ sockets, clock, page }) => {
    const { stop } = listen();
    for (const back of [
      () => document.dispatchEvent(new Event('visibilitychange')),
      () => dispatchEvent(new Event('online')),
    ]) {
      const { length } = sockets;
      sockets.at(-1).end();
      page.hidden = true;
      document.dispatchEvent(new Event('visibilitychange'));
      equal(sockets.length, length, 'not while it is hidden');
      page.hidden = false;
      back();
      equal(sockets.length, length + 1);
      back();
      equal(sockets.length, length + 1, 'not twice');
      await clock.pass(20);
    }
    stop();
  }));

test('reconnect() connects at once, and once', () =>
  withFakes(async ({ sockets, clock }) => {
    const { stop, reconnect, told } = listen();
    reconnect();
    equal(sockets.length, 1);
    for (let at = 0; at < 5; at += 1) {
      sockets.at(-1).end();
      await clock.pass(told.status.at(-1).retryAt - clock.now);
    }
    sockets.at(-1).end();
    const { length } = sockets;
    reconnect();
    equal(sockets.length, length + 1);
    await clock.pass(14_000);
    equal(sockets.length, length + 1, 'the pause that was under way is over');
    sockets.at(-1).end();
    ok(told.status.at(-1).retryAt - clock.now <= 500, 'a requested reconnect does not wait long');
    stop();
  }));

test('where trying again makes no sense it is over', () =>
  withFakes(async ({ sockets, clock, listening }) => {
    const before = listening.count;
    listen({ goOn: () => false });
    sockets[0].end();
    await clock.pass(60_000);
    equal([sockets.length, clock.waiting, listening.count], [1, 0, before]);
  }));

test('stop leaves nothing behind: no timer, listener, connection or word', () =>
  withFakes(async ({ sockets, clock, page, listening }) => {
    const before = listening.count;
    const situations = [
      async () => {},
      async () => sockets.at(-1).tell({ type: 'Hello', seq: 1 }),
      async () => sockets.at(-1).end(),
      async () => {
        page.hidden = true;
        sockets.at(-1).tell({ type: 'Hello', seq: 1 });
      },
    ];
    for (const situation of situations) {
      const { stop, told } = listen();
      await situation();
      const { length } = sockets;
      stop();
      stop();
      const words = JSON.stringify(told);
      await clock.pass(60_000);
      dispatchEvent(new Event('online'));
      page.hidden = false;
      document.dispatchEvent(new Event('visibilitychange'));
      sockets.at(-1).onmessage?.({ data: '{"type":"Hello","seq":2}' });
      equal(
        [JSON.stringify(told), sockets.length, clock.waiting, listening.count],
        [words, length, 0, before],
      );
      ok(sockets.at(-1).closed);
    }
  }));
