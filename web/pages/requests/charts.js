/** Figures of the last minutes, hour or day: of all nodes, of each node, or of each model. */

import { html, memo } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { buildUrl } from '../../core/router.js';
import { area, lines, niceMaximum, timeChart } from '../../components/chart.js';
import { SPANS, stepTimes, stepValues, sumValues, topSeries, toPoint } from './chart-series.js';
import { latestTime } from './traffic.js';

const BY = ['all', 'node', 'model'];

const FIGURES = {
  all: ['tokensPerSecond', 'active'],
  node: ['tokensPerSecond', 'active', 'memoryBytes', 'cpu', 'gpu'],
  model: ['tokensPerSecond', 'active', 'queued', 'memoryBytes'],
};
const FORMATS = {
  tokensPerSecond: (value) => f.number(value, 1),
  active: (value) => f.number(value),
  queued: (value) => f.number(value),
  memoryBytes: (value) => f.bytes(value),
  cpu: (value) => f.percent(value),
  gpu: (value) => f.percent(value),
};
const SHARES = new Set(['cpu', 'gpu']);
// Without a loaded model the scale would end at two bytes.
const SMALLEST = { memoryBytes: 1e9 };
// The server's history changes every five seconds, and every minute.
const MAX_AGE_MS = { recent: 10_000, hour: 60_000, day: 60_000 };
const RETRY_MS = 1_000;

export function createCharts(app) {
  const chosen = { span: 'recent', by: 'all' };
  // Answer of the server for the chosen series: {series, at}; null before it.
  let fetched = null;
  let requestCount = 0;
  // Time under the pointer; all charts show it.
  let cursor = null;

  // The figures of all nodes come as events, and their last minutes are in the store.
  const isLive = () => chosen.span === 'recent' && chosen.by === 'all';

  async function load() {
    requestCount += 1;
    const requestNumber = requestCount;
    const { span, by } = chosen;
    const query = { by: by === 'model' ? by : 'node', span: span === 'recent' ? span : 'day' };
    try {
      const { series } = await app.api.get(buildUrl('/api/charts', query));
      if (requestNumber !== requestCount) return;
      fetched = {
        series: series.map(({ id, points }) => ({ id, points: points.map(toPoint) })),
        at: Date.now(),
      };
      app.requestRender();
    } catch {
      // The next heartbeat asks again.
    }
  }

  const unsubscribe = app.store.subscribe(() => {
    if (isLive() || !fetched) return;
    // A server that has just started has its first figures soon.
    const maxAge = fetched.series.length ? MAX_AGE_MS[chosen.span] : RETRY_MS;
    if (Date.now() - fetched.at > maxAge) load();
  });

  function choose(name, value) {
    chosen[name] = value;
    [cursor, fetched] = [null, null];
    if (isLive()) app.requestRender();
    else load();
  }

  const onCursor = (at) => {
    cursor = at;
    app.requestRender();
  };

  const select = (name, values, label, textOf) => html`
    <select class="control" aria-label=${label} @change=${(event) => choose(name, event.target.value)}>
      ${values.map(
        (value) => html`<option value=${value} .selected=${chosen[name] === value}>${textOf(value)}</option>`,
      )}
    </select>`;

  /** {times, series: [{name, valuesOf(field)}], more}; null before there is anything. */
  function data({ traffic, nodes, models }, stepMs) {
    const { windowMs } = SPANS[chosen.span];
    const found = isLive()
      ? [...traffic].map(([id, { history }]) => ({ id, points: history }))
      : fetched?.series;
    const last = isLive() ? latestTime(traffic) : fetched?.at;
    if (!found?.length || !last) return null;
    const times = stepTimes(last, windowMs, stepMs);
    if (chosen.by === 'all') {
      const valuesOf = (field) => sumValues(found.map(({ points }) => stepValues(points, times, field)));
      return { times, series: [{ name: null, valuesOf }], more: 0 };
    }
    const { shown, more } = topSeries(found, times);
    const nameOf = (id) => (chosen.by === 'node' ? nodes.get(id)?.name : models.get(id)?.model.name) ?? id;
    return {
      times,
      more,
      series: shown.map(({ id, points }) => ({
        name: nameOf(id),
        valuesOf: (field) => stepValues(points, times, field),
      })),
    };
  }

  function chart(field, { times, series }) {
    const { windowMs, stepMs, tickMs } = SPANS[chosen.span];
    const drawn = series.map(({ name, valuesOf }) => ({ name, values: valuesOf(field) }));
    const known = drawn.map(({ values }) => values.filter((value) => value !== null));
    if (!known.some((values) => values.length)) return null;
    const to = times.at(-1) + stepMs / 2;
    const text = FORMATS[field];
    const label = t(`requests.chart.${field}`);
    const maximum = Math.max(...known.flat());
    const at = cursor === null ? null : Math.floor((cursor - to + windowMs) / stepMs);
    const pointed = at !== null && drawn.some(({ values }) => (values[at] ?? null) !== null) ? at : null;
    const pointsOf = (values) => values.map((value, index) => ({ at: times[index], value }));
    return timeChart({
      label,
      summary: summary(label, drawn, known, text),
      from: to - windowMs,
      to,
      maximum,
      top: SHARES.has(field) ? 1 : niceMaximum(maximum, SMALLEST[field]),
      format: field === 'memoryBytes' || SHARES.has(field) ? text : (value) => f.number(value),
      ticks: ticks(to, windowMs, tickMs),
      mark:
        chosen.by === 'all'
          ? area(pointsOf(drawn[0].values))
          : lines(drawn.map(({ values }) => pointsOf(values))),
      readout:
        pointed === null
          ? maximum > 0
            ? t('requests.chart.highest', { value: text(maximum) })
            : ''
          : t('requests.chart.at', {
              value: drawn
                .filter(({ values }) => values[pointed] !== null)
                .map(({ name, values }) => [name, text(values[pointed])].filter(Boolean).join(' '))
                .join(' · '),
              time: timeText(times[pointed]),
            }),
      cursor: pointed === null ? null : times[pointed],
      onCursor,
    });
  }

  const summary = (label, drawn, known, text) =>
    drawn
      .map(({ name }, at) => [name, known[at]])
      .filter(([, values]) => values.length)
      .map(([name, values]) =>
        t('requests.chart.summary', {
          label: name ? `${label}, ${name}` : label,
          last: text(values.at(-1)),
          maximum: text(Math.max(...values)),
          span: t(`requests.span.${chosen.span}`),
        }),
      )
      .join(' ');

  /** Without seconds where the steps are minutes. */
  const timeText = (at) => (chosen.span === 'recent' ? f.timeOfDay(at / 1000) : f.hourOfDay(at / 1000));

  /** One table of all figures, or one of each figure with a column for each node or model. */
  function tables(state) {
    const rows = data(state, SPANS[chosen.span].rowMs);
    if (!rows) return null;
    if (chosen.by === 'all') return table(rows.times, null, columnsOf(FIGURES.all, rows.series[0]));
    return FIGURES[chosen.by].map((field) => {
      const columns = rows.series.map((series) => ({ ...columnsOf([field], series)[0], title: series.name }));
      return columns.some(({ values }) => values.some((value) => value !== null))
        ? table(rows.times, t(`requests.chart.${field}`), columns)
        : null;
    });
  }

  const columnsOf = (fields, { valuesOf }) =>
    fields.map((field) => ({
      title: t(`requests.chart.${field}`),
      values: valuesOf(field),
      text: FORMATS[field],
    }));

  /** Newest first, without times of which nothing is known. */
  const table = (times, caption, columns) => html`
    <table class="table">
      ${caption && html`<caption>${caption}</caption>`}
      <thead>
        <tr>
          <th scope="col">${t('requests.table.time')}</th>
          ${columns.map(({ title }) => html`<th scope="col" class="number">${title}</th>`)}
        </tr>
      </thead>
      <tbody>
        ${times
          .map((at, index) => ({ at, index }))
          .filter(({ index }) => columns.some(({ values }) => values[index] !== null))
          .reverse()
          .map(
            ({ at, index }) => html`
              <tr>
                <th scope="row">${timeText(at - SPANS[chosen.span].rowMs / 2)}</th>
                ${columns.map(({ values, text }) => html`<td class="number">${text(values[index])}</td>`)}
              </tr>`,
          )}
      </tbody>
    </table>`;

  const legend = ({ series, more }) =>
    chosen.by === 'all'
      ? null
      : html`
        <ul class="legend">
          ${series.map(({ name }, at) => html`<li><i class="key series-${at}"></i>${name}</li>`)}
          ${more ? html`<li>${t('requests.chart.more', { count: more })}</li>` : null}
        </ul>`;

  function content(state) {
    const found = data(state, SPANS[chosen.span].stepMs);
    if (!found) {
      const isEmpty = isLive() || fetched;
      return isEmpty
        ? html`<p class="soft">${t('requests.chart.none')}</p>`
        : html`<div class="skeleton charts-loading" aria-hidden="true"></div>`;
    }
    return html`
      <div class="charts">${FIGURES[chosen.by].map((field) => chart(field, found))}</div>
      ${legend(found)}
      <details class="chart-table">
        <summary>${t('requests.table')}</summary>
        <div
          class="table-scroll"
          tabindex="0"
          role="region"
          aria-label=${t('requests.table.name', { span: t(`requests.span.${chosen.span}`) })}
        >
          ${tables(state)}
        </div>
      </details>`;
  }

  return {
    close: unsubscribe,
    view: (state) =>
      memo(
        [isLive() ? state.traffic : fetched, cursor, chosen.span, chosen.by, state.nodes.size],
        () => html`
          <section class="card requests-charts" aria-labelledby="requests-history">
            <div class="usage-head">
              <h2 id="requests-history">${t(`requests.span.${chosen.span}`)}</h2>
              <div class="buttons">
                ${select('span', Object.keys(SPANS), t('requests.chart.span'), (span) =>
                  t(`requests.span.${span}`),
                )}
                ${select('by', BY, t('requests.chart.by'), (by) => t(`requests.chart.by.${by}`))}
              </div>
            </div>
            ${content(state)}
          </section>`,
      ),
  };
}

/** Counted back from now, so that the ticks stay in place. */
const ticks = (to, windowMs, tickMs) =>
  Array.from({ length: windowMs / tickMs + 1 }, (_, index) => {
    const before = windowMs - index * tickMs;
    const time = f.duration(before / 1000);
    return { at: to - before, text: before ? t('requests.chart.before', { time }) : t('requests.chart.now') };
  });
