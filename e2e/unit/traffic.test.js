/** pages/requests/traffic.js. */

import { latestTime, currentFigures } from '/web/pages/requests/traffic.js';
import { equal, test } from './runner.js';

const AT = 1.8e12;

const point = (at, tokensPerSecond, active = 0, requests = 0) => ({ at, tokensPerSecond, active, requests });
const told = (...points) => ({ ...points.at(-1), history: points });

test('the time of the latest point of any node', () => {
  equal(latestTime(new Map()), null);
  equal(
    latestTime(
      new Map([
        ['a', told(point(AT, 1))],
        ['b', told(point(AT - 5, 1), point(AT + 5, 1))],
      ]),
    ),
    AT + 5,
  );
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
    ['a', told(point(AT, 5, 1, 10))],
    ['c', told(point(AT, 50, 2, 100))],
  ]);
  equal(currentFigures({ nodes, traffic }), {
    active: 2,
    tokensPerSecond: 5,
    requests: 110,
    busy: 1,
    slots: 8,
  });
});
