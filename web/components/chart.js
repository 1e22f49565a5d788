/**
 * Charts over time. Marks are drawn into an SVG that is stretched to its place, so it needs no measuring and is crisp
 * at every width; texts are HTML beside it, so they keep their size.
 */

import { html, svg } from '../lib/html.js';

const WIDTH = 1000;
const HEIGHT = 100;

/** A mark: the area below `points`, [{at, value}] in order of time; a value of null is a gap. */
export const area = (points) => ({ x, y }) =>
  segments(points).map((run) => {
    const line = run.map(({ at, value }) => `${x(at)} ${y(value)}`).join('L');
    return svg`
      <g>
        <path class="chart-area" d=${`M${x(run[0].at)} ${HEIGHT}L${line}L${x(run.at(-1).at)} ${HEIGHT}z`}></path>
        <path class="chart-line" d=${`M${line}h0`}></path>
      </g>`;
  });

/** A mark: columns of parts one upon the other. `stacks`: [{at, parts: [{value, series}]}], each `width` milliseconds wide. */
export const stackedBars = (stacks, width) => ({ x, y }) =>
  stacks.map(({ at, parts }) => {
    const gap = (x(at + width) - x(at)) * 0.12;
    let base = 0;
    return svg`
      <g>
        ${parts.map(({ value, series }) => {
          const [foot, head] = [y(base), y(base + value)];
          base += value;
          return svg`<rect class="series-${series}" x=${x(at) + gap} width=${x(at + width) - x(at) - 2 * gap} y=${head} height=${round(foot - head)}></rect>`;
        })}
      </g>`;
  });

/**
 * One chart.
 *
 *   label, summary   what it shows; what a screen reader is told instead of the drawing
 *   from, to         the time it spans, in milliseconds
 *   highest          the greatest value that has to find room
 *   format           a value → text
 *   ticks            [{at, text}] below it
 *   mark             what is drawn, such as `area(points)`
 *   readout          a text at its head: what is under the cursor, or what matters most
 *   cursor           the moment that a person points at; null: none
 *   onCursor(at)     told that moment, null when they leave
 */
export function timeChart({ label, summary, from, to, maximum, format, ticks, mark, readout, cursor, onCursor }) {
  const top = niceMaximum(maximum);
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
      <figcaption class="chart-head"><span>${label}</span><span aria-hidden="true">${readout}</span></figcaption>
      <div class="chart-levels" aria-hidden="true">
        ${[top, top / 2, 0].map((value) => html`<span>${format(value)}</span>`)}
      </div>
      <div class="chart-plot" @pointermove=${point} @pointerleave=${() => onCursor(null)}>
        <svg role="img" aria-label=${summary} viewBox="0 0 ${WIDTH} ${HEIGHT}" preserveAspectRatio="none">
          <path class="chart-grid" d="M0 0H${WIDTH}M0 ${HEIGHT / 2}H${WIDTH}M0 ${HEIGHT}H${WIDTH}"></path>
          ${mark(scale)}
          ${cursor === null ? null : svg`<path class="chart-cursor" d=${`M${scale.x(cursor)} 0V${HEIGHT}`}></path>`}
        </svg>
      </div>
      <div class="chart-ticks" aria-hidden="true">
        ${ticks.map(({ at, text }) => html`<span --at=${share(at)}>${text}</span>`)}
      </div>
    </figure>`;
}

/** A line without axes for shares 0–1; the number it belongs to stands beside it. */
export const sparkline = (points, from, to) => html`
  <svg class="sparkline" viewBox="0 0 ${WIDTH} ${HEIGHT}" preserveAspectRatio="none" aria-hidden="true">
    ${area(points)({
      x: (at) => round(((at - from) / (to - from)) * WIDTH),
      y: (value) => round(HEIGHT - value * HEIGHT),
    })}
  </svg>`;

/** The least of 2, 4, 10, 20, 40, 100, … that is not below `highest`: its half is a round number, too. */
export function niceMaximum(maximum) {
  const power = 10 ** Math.floor(Math.log10(Math.max(1, maximum)));
  return [2, 4, 10, 20].map((step) => step * power).find((top) => top >= maximum);
}

/** `points` without those of no value, cut where they were. */
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
