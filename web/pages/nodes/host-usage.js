/** Utilisation of the machine by all of its processes: now and over the last minutes. */

import { html, memo } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { meter } from '../../components/progress.js';
import { sparkline } from '../../components/chart.js';

const SPAN_MS = 5 * 60_000;
// Heartbeats come every 5 s; a line across a longer gap would show values that were not measured.
const GAP_MS = 15_000;

/** `traffic`: the node's metrics in the store; undefined before the first heartbeat. */
export function hostUsage({ meters }, traffic) {
  const history = traffic?.history ?? [];
  return html`
    <div class="host">
      <p class="labelled-meter-head">
        <strong>${t('node.host')}</strong><span>${t('node.host.span', {
          time: f.duration(SPAN_MS / 1000),
        })}</span>
      </p>
      ${gauge(t('node.host.cpu'), meters.cpu_usage, history, 'cpu')}
      ${gauge(t('node.host.ram'), meters.memory_usage, history, 'memory')}
      ${meters.gpu_usage === null ? null : gauge(t('node.host.gpu'), meters.gpu_usage)}
      ${meters.gpu_memory_usage === null ? null : gauge(t('node.host.vram'), meters.gpu_memory_usage)}
    </div>`;
}

/** `field`: the corresponding field of `history`; GPUs have none. */
const gauge = (label, share, history, field) => html`
  <div class="gauge">
    <span class="gauge-name">${label}</span><span class="gauge-value">${f.percent(share)}</span>
    ${meter(label, [{ name: label, value: share, kind: 'other' }], 1)}
    ${
      field
        ? html`<div class="gauge-history">${memo([history], () => historyLine(history, field))}</div>`
        : null
    }
  </div>`;

function historyLine(history, field) {
  if (!history.length) return null;
  const to = history.at(-1).at;
  const points = [];
  for (const point of history) {
    if (point.at < to - SPAN_MS) continue;
    const before = points.at(-1);
    if (before && point.at - before.at > GAP_MS) points.push({ at: before.at, value: null });
    points.push({ at: point.at, value: point[field] });
  }
  return sparkline(points, to - SPAN_MS, to);
}
