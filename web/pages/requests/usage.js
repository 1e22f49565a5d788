/** Usage by model, key or node, per hour or day. */

import { html, memo } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { buildUrl } from '../../core/router.js';
import { niceMaximum, stackedBars, timeChart } from '../../components/chart.js';
import { download } from '../../lib/download.js';
import { alertBox, errorMessage, note } from '../../components/feedback.js';
import { icon } from '../../components/icons.js';
import { csvName, usageCsv } from './usage-csv.js';
import { CUSTOM, dateOf, defaultDates, MAX_DAYS, PERIODS, usageRange } from './usage-range.js';
import { usageSeries } from './usage-series.js';

const BY = ['model', 'key', 'user', 'node'];
const BUCKETS = ['day', 'hour'];
const MEASURES = ['tokens', 'requests', 'cost'];
const MAX_TICKS = 8;
const PERIOD_QUERY = ['period', 'from', 'to'];

export function createUsageSection(app, route) {
  let { query } = route;
  const chosen = { by: 'model', bucket: 'day', measure: 'tokens' };
  let usage = null;
  let error = null;
  let cursor = null;
  let requestCount = 0;

  async function load() {
    requestCount += 1;
    const requestNumber = requestCount;
    const { from, to, bucket, problem } = range();
    if (problem) {
      [usage, error] = [null, null];
      return app.requestRender();
    }
    try {
      const fetched = await app.api.get(buildUrl('/api/usage', { by: chosen.by, bucket, from, to }));
      if (requestNumber === requestCount) [usage, error] = [fetched, null];
    } catch (failure) {
      if (requestNumber === requestCount) error = failure;
    }
    app.requestRender();
  }

  const range = () => usageRange(query, chosen.bucket, Date.now());

  /** The period is part of the URL, so that a link shows the same figures. */
  const goTo = (changes) =>
    app.go(buildUrl('/requests', { ...query, ...changes }), { replace: true });

  const choosePeriod = (period) =>
    goTo({ from: '', to: '', ...(period === CUSTOM ? defaultDates(Date.now()) : {}), period });

  const period = () => html`
    <select
      class="control"
      aria-label=${t('usage.choose.period')}
      @change=${(event) => choosePeriod(event.target.value)}
    >
      ${PERIODS.map(
        (value) => html`
          <option value=${value} .selected=${range().period === value}>
            ${t(`usage.period.${value || chosen.bucket}`)}
          </option>`,
      )}
    </select>
    ${
      range().period === CUSTOM
        ? ['from', 'to'].map(
            (name) => html`
              <label class="usage-date">
                <span>${t(`usage.${name}`)}</span>
                <input
                  class="control"
                  type="date"
                  max=${dateOf(Date.now())}
                  .value=${query[name] ?? ''}
                  @change=${(event) => goTo({ [name]: event.target.value })}
                />
              </label>`,
          )
        : null
    }`;

  const choose = (name, value) => {
    chosen[name] = value;
    cursor = null;
    if (name === 'measure') app.requestRender();
    else load();
  };

  const select = (name, values) => html`
    <select
      class="control"
      aria-label=${t(`usage.choose.${name}`)}
      @change=${(event) => choose(name, event.target.value)}
    >
      ${values.map(
        (value) =>
          html`
            <option value=${value} .selected=${chosen[name] === value}>
              ${t(`usage.${name}.${value}`)}
            </option>`,
      )}
    </select>`;

  const textOf = (value) => (chosen.measure === 'cost' ? f.money(value) : f.number(value));

  function content(models) {
    const { problem } = range();
    if (problem) return alertBox(t(`usage.problem.${problem}`, { count: MAX_DAYS }));
    if (error) return alertBox(errorMessage(error));
    if (!usage) return html`<div class="skeleton usage-loading" aria-hidden="true"></div>`;
    const totals = usageSeries(usage, chosen.measure, (entry) => nameOf(entry, usage.by, models));
    if (!totals.series.length)
      return html`<p class="soft">${t(chosen.measure === 'cost' ? 'usage.free' : 'usage.none')}</p>`;
    return [
      usage.truncated ? note(t('usage.truncated')) : null,
      chart(totals),
      legend(totals, textOf),
      table(totals, textOf),
    ];
  }

  function chart({ stacks, from, to, width, maximum, total }) {
    const at = stacks[Math.floor(((cursor ?? 0) - from) / width)];
    const shown = cursor === null || !at ? null : at;
    return html`<div>
      ${timeChart({
        label: t(`usage.measure.${chosen.measure}`),
        summary: t('usage.summary', { total: textOf(total), maximum: textOf(maximum) }),
        from,
        to,
        maximum,
        // A cent on a scale up to two dollars would not be seen.
        top: niceMaximum(maximum, chosen.measure === 'cost' ? 1e-6 : 1),
        format: chosen.measure === 'cost' ? f.money : f.compact,
        ticks: ticks(stacks, width, usage.bucket),
        mark: stackedBars(stacks, width),
        readout: shown
          ? t('requests.chart.at', { value: textOf(shown.total), time: when(shown.at, usage.bucket) })
          : t('usage.total', { total: textOf(total) }),
        cursor: null,
        onCursor(moment) {
          cursor = moment;
          app.requestRender();
        },
      })}
    </div>`;
  }

  return {
    load,
    update(to) {
      const before = JSON.stringify(PERIOD_QUERY.map((name) => query[name]));
      query = to.query;
      if (JSON.stringify(PERIOD_QUERY.map((name) => query[name])) === before) return;
      cursor = null;
      load();
    },
    view: ({ models }) =>
      memo(
        [usage, error, cursor, models.size, chosen.measure, chosen.by, chosen.bucket, query],
        () => html`
        <section class="card usage" aria-labelledby="usage">
          <div class="usage-head">
            <h2 id="usage">${t('usage.title')}</h2>
            <div class="buttons">
              ${period()} ${select('measure', MEASURES)} ${select('by', BY)} ${select('bucket', BUCKETS)}
              ${
                usage?.usage.length
                  ? html`
                    <button
                      type="button"
                      class="button small"
                      @click=${() => download(csvName(usage), usageCsv(usage), 'text/csv')}
                    >
                      ${icon('download')}${t('usage.csv')}
                    </button>`
                  : null
              }
            </div>
          </div>
          ${content(models)}
        </section>`,
      ),
  };
}

/** Display name of an entry; sessions have no key and are named by user. */
function nameOf({ key, name, user }, by, models) {
  if (by === 'key' && key === null) return user ? t('usage.session_of', { user }) : t('usage.host');
  if (key === null) return t(`usage.no_${by}`);
  return (by === 'model' && models.get(key)?.model.name) || name || key;
}

const when = (at, bucket) => (bucket === 'day' ? f.utcDay(at / 1000) : f.hourOfDay(at / 1000));

function ticks(stacks, width, bucket) {
  const every = Math.ceil(stacks.length / MAX_TICKS);
  return stacks
    .filter((_, index) => index % every === 0)
    .map(({ at }) => ({ at: at + width / 2, text: when(at, bucket) }));
}

const legend = ({ series }, textOf) => html`
  <ul class="legend">
    ${series.map(
      ({ name, total }, index) => html`
      <li><i class="key series-${index}"></i>${name ?? t('usage.others')}: ${textOf(total)}</li>`,
    )}
  </ul>`;

const table = ({ stacks, series, bucket }, textOf) => html`
  <details class="chart-table">
    <summary>${t('requests.table')}</summary>
    <div class="table-scroll" tabindex="0" role="region" aria-label=${t('usage.table')}>
      <table class="table">
        <thead>
          <tr>
            <th scope="col">${t(`usage.bucket.${bucket}`)}</th>
            ${series.map(
              ({ name }) => html`<th scope="col" class="number">${name ?? t('usage.others')}</th>`,
            )}
          </tr>
        </thead>
        <tbody>
          ${[...stacks].reverse().map(
            ({ at, parts }) => html`
              <tr>
                <th scope="row">${when(at, bucket)}</th>
                ${parts.map(({ value }) => html`<td class="number">${textOf(value)}</td>`)}
              </tr>`,
          )}
        </tbody>
      </table>
    </div>
  </details>`;
