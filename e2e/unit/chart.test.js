/** components/chart.js: scales, gaps and the cursor. */

import { html, render } from '/web/lib/html.js';
import { area, niceMaximum, sparkline, timeChart } from '/web/components/chart.js';
import { equal, ok, place, test } from './runner.js';

test('the top of a chart is round, and so is its half', () => {
  equal(
    [0, 0.3, 1, 2, 2.1, 4, 5, 11, 20, 21, 41, 99, 101, 4000, 4001].map((value) => niceMaximum(value)),
    [2, 2, 2, 2, 4, 4, 10, 20, 20, 40, 100, 100, 200, 4000, 10000],
  );
});

test('a line is cut where nothing is known', () => {
  const element = place();
  const points = [0, 1, null, 3].map((value, at) => ({ at, value: value === null ? null : value / 4 }));
  render(sparkline(points, 0, 4), element);
  const lines = [...element.querySelectorAll('.chart-line')].map((path) => path.getAttribute('d'));
  equal(lines, ['M0 100L250 75h0', 'M750 25h0']);
});

test('a chart says what it shows, and where a person points', () => {
  const element = place();
  let pointed;
  render(
    html`${timeChart({
      label: '<b>Rate</b>',
      summary: 'Rate: 3 now.',
      from: 0,
      to: 100,
      maximum: 3,
      format: String,
      ticks: [
        { at: 0, text: 'then' },
        { at: 100, text: 'now' },
      ],
      mark: area([
        { at: 0, value: 1 },
        { at: 100, value: 3 },
      ]),
      readout: 'at most 3',
      cursor: 50,
      onCursor: (at) => (pointed = at),
    })}`,
    element,
  );
  equal(element.querySelector('[role=img]').getAttribute('aria-label'), 'Rate: 3 now.');
  equal(
    [...element.querySelectorAll('.chart-levels span')].map((level) => level.textContent),
    ['4', '2', '0'],
  );
  ok(element.textContent.includes('<b>Rate</b>'));
  equal(element.querySelector('.chart-cursor').getAttribute('d'), 'M500 0V100');
  const plot = element.querySelector('.chart-plot');
  const { left, width } = plot.getBoundingClientRect();
  plot.dispatchEvent(new PointerEvent('pointermove', { clientX: left + width / 4 }));
  equal(pointed, 25);
  plot.dispatchEvent(new PointerEvent('pointermove', { clientX: left - 50 }));
  equal(pointed, 0);
  plot.dispatchEvent(new PointerEvent('pointerleave'));
  equal(pointed, null);
});
