/**
 * Time charts. Marks are drawn into an SVG stretched to its container, so nothing needs measuring and lines
 * stay crisp at every width. Texts are HTML next to it, so they keep their size.
 */

import { html, svg } from '../lib/html.js';

const WIDTH = 1000;
const HEIGHT = 100;

/** Mark: the area below `points`, [{at, value}] in chronological order. A value of null is a gap. */
export const area =
  (points) =>
  ({ x, y }) =>
    segments(points).map((run) => {
      const line = run.map(({ at, value }) => `${x(at)} ${y(value)}`).join('L');
      return svg`
      <g>
        <path
          class="chart-area"
          d=${`M${x(run[0].at)} ${HEIGHT}L${line}L${x(run.at(-1).at)} ${HEIGHT}z`}
        ></path>
        <path class="chart-line" d=${`M${line}h0`}></path>
      </g>`;
    });

/** Mark: a line for each of `series`, in the colour of its position; values of null are gaps. */
export const lines =
  (series) =>
  ({ x, y }) =>
    series.map((points, at) => {
      const runs = segments(points).map(
        (run) => `M${run.map((p) => `${x(p.at)} ${y(p.value)}`).join('L')}h0`,
      );
      return svg`<path class="chart-line series-${at}" d=${runs.join('')}></path>`;
    });

/** Mark: stacked columns. `stacks`: [{at, parts: [{value, series}]}], each `width` milliseconds wide. */
export const stackedBars =
  (stacks, width) =>
  ({ x, y }) =>
    stacks.map(({ at, parts }) => {
      const gap = (x(at + width) - x(at)) * 0.12;
      let base = 0;
      return svg`
      <g>
        ${parts.map(({ value, series }) => {
          const [foot, head] = [y(base), y(base + value)];
          base += value;
          return svg`<rect
                class="series-${series}"
                x=${x(at) + gap}
                width=${x(at + width) - x(at) - 2 * gap}
                y=${head}
                height=${round(foot - head)}
              ></rect>`;
        })}
      </g>`;
    });

/**
 * Time chart.
 *
 *   label, summary   title; text alternative for screen readers
 *   from, to         time range in milliseconds
 *   maximum          largest value; `top` is the upper end of the scale
 *   format           value → text
 *   ticks            [{at, text}] of the time axis
 *   mark             what is drawn, e.g. `area(points)`
 *   readout          text in the header: the value at the cursor, or a summary
 *   cursor           time under the pointer, or null
 *   onCursor(at)     called with the time under the pointer, or null when the pointer leaves
 */
export function timeChart({
  label,
  summary,
  from,
  to,
  maximum,
  top = niceMaximum(maximum),
  format,
  ticks,
  mark,
  readout,
  cursor,
  onCursor,
}) {
  const share = (at) => (at - from) / (to - from);
  const scale = {
    x: (at) => round(share(at) * WIDTH),
    y: (value) => round(HEIGHT - (value / top) * HEIGHT),
  };
  const point = ({ currentTarget, clientX }) => {
    const { left, width } = currentTarget.getBoundingClientRect();
    onCursor(from + Math.min(1, Math.max(0, (clientX - left) / width)) * (to - from));
  };
  return html`
    <figure class="chart">
      <figcaption class="chart-head">
        <span>${label}</span><span aria-hidden="true">${readout}</span>
      </figcaption>
      <div class="chart-levels" aria-hidden="true">
        ${[top, top / 2, 0].map((value) => html`<span>${format(value)}</span>`)}
      </div>
      <div class="chart-plot" @pointermove=${point} @pointerleave=${() => onCursor(null)}>
        <svg role="img" aria-label=${summary} viewBox="0 0 ${WIDTH} ${HEIGHT}" preserveAspectRatio="none">
          <path class="chart-grid" d="M0 0H${WIDTH}M0 ${HEIGHT / 2}H${WIDTH}M0 ${HEIGHT}H${WIDTH}"></path>
          ${mark(scale)}
          ${
            cursor === null
              ? null
              : svg`<path class="chart-cursor" d=${`M${scale.x(cursor)} 0V${HEIGHT}`}></path>`
          }
        </svg>
      </div>
      <div class="chart-ticks" aria-hidden="true">
        ${ticks.map(({ at, text }) => html`<span --at=${share(at)}>${text}</span>`)}
      </div>
    </figure>`;
}

/** Line without axes for values from 0 to 1; the number itself is shown next to it. */
export const sparkline = (points, from, to) => html`
  <svg class="sparkline" viewBox="0 0 ${WIDTH} ${HEIGHT}" preserveAspectRatio="none" aria-hidden="true">
    ${area(points)({
      x: (at) => round(((at - from) / (to - from)) * WIDTH),
      y: (value) => round(HEIGHT - value * HEIGHT),
    })}
  </svg>`;

/**
 * Smallest of 2, 4, 10, 20, 40, 100, … that is at least `maximum`. Its half is a round number as well. The
 * scale of what is not counted, such as money, may end below 1: at `smallest`.
 */
export function niceMaximum(maximum, smallest = 1) {
  const power = 10 ** Math.floor(Math.log10(Math.max(smallest, maximum)));
  return [2, 4, 10, 20].map((step) => step * power).find((top) => top >= maximum);
}

/** Splits `points` at the gaps, without the points that have no value. */
function segments(points) {
  const found = [];
  let open = null;
  for (const point of points) {
    if (point.value === null) open = null;
    else if (open) open.push(point);
    else found.push((open = [point]));
  }
  return found;
}

const round = (value) => Math.round(value * 10) / 10;
