/** pages/requests/traffic.js. */

import { trafficHistory, latestTime, currentFigures, WINDOW_MS } from '/web/pages/requests/traffic.js';
import { equal, frozen, test } from './runner.js';

const STEP = 10_000;
// A round time.
const END = Math.floor(1.8e12 / STEP) * STEP;

const point = (at, tokensPerSecond, active = 0, requests = 0) => ({ at, tokensPerSecond, active, requests });
const told = (...points) => ({ ...points.at(-1), history: points });
const known = (steps) => steps.filter(({ active }) => active !== null);

test('no node has said anything yet', () => {
  equal(latestTime(new Map()), null);
  equal(trafficHistory(new Map(), STEP), []);
});

test('the window ends with the step of the latest figures', () => {
  const traffic = frozen(new Map([['a', told(point(END + 1, 3, 1))]]));
  const steps = trafficHistory(traffic, STEP);
  equal(steps.length, WINDOW_MS / STEP);
  equal(steps.at(-1), { at: END + STEP / 2, tokensPerSecond: 3, active: 1 });
  equal(known(steps).length, 1);
});

test('a step is the mean rate and the most answers of each node, added up', () => {
  const traffic = new Map([
    ['a', told(point(END, 10, 1), point(END + 5000, 20, 4))],
    ['b', told(point(END + 2500, 7, 2))],
  ]);
  equal(known(trafficHistory(traffic, STEP)), [{ at: END + STEP / 2, tokensPerSecond: 22, active: 6 }]);
});

test('what is older than the window is left out, and silence is a gap', () => {
  const traffic = new Map([
    ['a', told(point(END - WINDOW_MS - STEP, 99), point(END - 3 * STEP, 1), point(END, 2))],
  ]);
  const steps = trafficHistory(traffic, STEP);
  equal(
    known(steps).map((step) => step.tokensPerSecond),
    [1, 2],
  );
  equal(
    steps.slice(-4).map((step) => step.tokensPerSecond),
    [1, null, null, 2],
  );
});

test('what is past keeps its shape while time goes on', () => {
  const points = [point(END - 2 * STEP, 4), point(END - STEP, 6)];
  const before = known(trafficHistory(new Map([['a', told(...points)]]), STEP));
  const after = known(trafficHistory(new Map([['a', told(...points, point(END + 9999, 5))]]), STEP));
  equal(after.slice(0, 2), before);
});

test('figures of now are of one heartbeat, and leave out nodes that are away', () => {
  const node = (id, status, slots, active) => [id, { id, status, slots, active_requests: active }];
  const nodes = new Map([
    node('a', 'online', 8, 1),
    // Its model is still being loaded.
    node('b', 'online', 0, 1),
    node('c', 'offline', 2, 2),
  ]);
  const traffic = new Map([
    ['a', told(point(END, 5, 1, 10))],
    ['c', told(point(END, 50, 2, 100))],
  ]);
  equal(currentFigures({ nodes, traffic }), {
    active: 2,
    tokensPerSecond: 5,
    requests: 110,
    busy: 1,
    slots: 8,
  });
});
