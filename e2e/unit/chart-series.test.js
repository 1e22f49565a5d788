/** pages/requests/chart-series.js. */

import {
  MAX_SERIES,
  SPANS,
  stepTimes,
  stepValues,
  sumValues,
  topSeries,
  toPoint,
} from '/web/pages/requests/chart-series.js';
import { equal, test } from './runner.js';

const { windowMs, stepMs } = SPANS.recent;
// A round time.
const END = Math.floor(1.8e12 / stepMs) * stepMs;

const point = (at, tokensPerSecond, active = 0) => ({ at, tokensPerSecond, active });
const timesAt = (last) => stepTimes(last, windowMs, stepMs);
const known = (values) => values.filter((value) => value !== null);

test('the window ends with the step of the latest figures, in every span', () => {
  for (const span of Object.values(SPANS)) {
    const last = Math.floor(1.8e12 / span.stepMs) * span.stepMs;
    const times = stepTimes(last + 1, span.windowMs, span.stepMs);
    equal([times.length, times.at(-1)], [span.windowMs / span.stepMs, last + span.stepMs / 2]);
  }
});

test('a step is the mean rate and the most requests; silence is a gap; what is older is left out', () => {
  const points = [
    point(END - windowMs - stepMs, 99, 99),
    point(END - 2 * stepMs, 1, 1),
    point(END, 10, 1),
    point(END + 5000, 20, 4),
  ];
  equal(stepValues(points, timesAt(END + 5000), 'tokensPerSecond').slice(-3), [1, null, 15]);
  equal(known(stepValues(points, timesAt(END), 'active')), [1, 4]);
  equal(known(stepValues(points, timesAt(END), 'gpu')), [], 'a figure that no point has');
});

test('several series add up where one of them has a value', () => {
  equal(
    sumValues([
      [1, null, null],
      [2, 3, null],
    ]),
    [3, 3, null],
  );
  equal(sumValues([]), []);
});

test('what is past keeps its shape while time goes on', () => {
  const points = [point(END - 2 * stepMs, 4), point(END - stepMs, 6)];
  const before = known(stepValues(points, timesAt(END - stepMs), 'tokensPerSecond'));
  const after = known(stepValues([...points, point(END + 9999, 5)], timesAt(END + 9999), 'tokensPerSecond'));
  equal(after.slice(0, 2), before);
});

test('the busiest are shown, the others are counted', () => {
  const series = Array.from({ length: MAX_SERIES + 2 }, (_, at) => ({ id: at, points: [point(END, at)] }));
  const { shown, more } = topSeries(series, timesAt(END));
  equal([shown.length, shown[0].id, more], [MAX_SERIES, MAX_SERIES + 1, 2]);
});

test('points of the API have the unit of the page', () => {
  const sent = {
    at: 5,
    tokens_per_second: 1.5,
    active_requests: 2,
    queued: 3,
    memory_bytes: 4,
    gpu_usage: null,
  };
  const { at, tokensPerSecond, active, queued, memoryBytes, gpu } = toPoint(sent);
  equal([at, tokensPerSecond, active, queued, memoryBytes, gpu], [5000, 1.5, 2, 3, 4, null]);
});
