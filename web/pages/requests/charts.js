/** The last 15 minutes as two charts on one time axis, and as a table. */

import { html, memo } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { area, timeChart } from '../../components/chart.js';
import { trafficHistory, WINDOW_MS } from './traffic.js';

const STEP_MS = 10_000;
const MINUTE_MS = 60_000;
const TICK_MS = 5 * MINUTE_MS;

const CHARTS = [
  { field: 'tokensPerSecond', key: 'requests.chart.rate', digits: 1 },
  { field: 'active', key: 'requests.chart.active', digits: 0 },
];

export function createCharts(app) {
  // Time under the pointer; both charts show it.
  let cursor = null;

  const onCursor = (at) => {
    cursor = at;
    app.requestRender();
  };

  function chart({ field, key, digits }, steps) {
    const to = steps.at(-1).at + STEP_MS / 2;
    const known = steps.filter((step) => step[field] !== null);
    const maximum = Math.max(...known.map((step) => step[field]));
    const pointed = cursor === null ? null : steps[Math.floor((cursor - to + WINDOW_MS) / STEP_MS)];
    const text = (value) => f.number(value, digits);
    return timeChart({
      label: t(key),
      summary: t('requests.chart.summary', {
        label: t(key),
        last: text(known.at(-1)[field]),
        maximum: text(maximum),
      }),
      from: to - WINDOW_MS,
      to,
      maximum,
      format: (value) => f.number(value),
      ticks: ticks(to),
      mark: area(steps.map((step) => ({ at: step.at, value: step[field] }))),
      readout:
        pointed && pointed[field] !== null
          ? t('requests.chart.at', { value: text(pointed[field]), time: f.timeOfDay(pointed.at / 1000) })
          : maximum > 0
            ? t('requests.chart.highest', { value: text(maximum) })
            : '',
      cursor: pointed?.at ?? null,
      onCursor,
    });
  }

  return {
    view: ({ traffic }) =>
      memo([traffic, cursor], () => {
        const steps = trafficHistory(traffic, STEP_MS);
        return html`
          <section class="card requests-charts" aria-labelledby="requests-history">
            <h2 id="requests-history">${t('requests.history')}</h2>
            <div class="charts">${steps.length ? CHARTS.map((each) => chart(each, steps)) : null}</div>
            <details class="chart-table">
              <summary>${t('requests.table')}</summary>
              <div class="table-scroll" tabindex="0" role="region" aria-label=${t('requests.table.name')}>
                ${table(traffic)}
              </div>
            </details>
          </section>`;
      }),
  };
}

/** Counted back from now, so that the ticks stay in place. */
const ticks = (to) =>
  Array.from({ length: WINDOW_MS / TICK_MS + 1 }, (_, index) => {
    const before = WINDOW_MS - index * TICK_MS;
    const time = f.duration(before / 1000);
    return { at: to - before, text: before ? t('requests.chart.before', { time }) : t('requests.chart.now') };
  });

/** One row per minute, newest first. */
const table = (traffic) => html`
  <table class="table">
    <thead>
      <tr>
        <th scope="col">${t('requests.table.time')}</th>
        ${CHARTS.map(({ key }) => html`<th scope="col" class="number">${t(key)}</th>`)}
      </tr>
    </thead>
    <tbody>
      ${trafficHistory(traffic, MINUTE_MS)
        .filter((minute) => minute.active !== null)
        .reverse()
        .map(
          (minute) => html`
            <tr>
              <th scope="row">${f.timeOfDay((minute.at - MINUTE_MS / 2) / 1000)}</th>
              ${CHARTS.map(
                ({ field, digits }) => html`<td class="number">${f.number(minute[field], digits)}</td>`,
              )}
            </tr>`,
        )}
    </tbody>
  </table>`;
