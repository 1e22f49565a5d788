/** Memory and disk meters: what a node offers to models, and how much of it they use. */

import { html } from '../../lib/html.js';
import { shownBytes } from '../../core/format.js';
import { f, t } from '../../core/i18n.js';
import { note } from '../../components/feedback.js';
import { meter } from '../../components/progress.js';

/**
 * Memory reserved by the node's engines. Their sum is more recent than `memory_used_bytes`, which is as old
 * as the last heartbeat.
 */
export const memoryUsed = (node) => node.engines.reduce((sum, engine) => sum + engine.memory_bytes, 0);

/** Number and size of the models that are complete on a node's disk. */
export function storedModels(node) {
  const files = node.replicas.filter(({ state }) => state === 'ready');
  return { count: files.length, bytes: files.reduce((sum, replica) => sum + replica.total_bytes, 0) };
}

export function memoryMeter(node) {
  const used = memoryUsed(node);
  const free = Math.max(0, shownBytes(node.memory_budget_bytes) - shownBytes(used));
  const parts = node.engines
    .filter((engine) => engine.memory_bytes > 0)
    .map((engine) => ({ name: engine.model_id, value: engine.memory_bytes, kind: 'loaded' }))
    .sort((a, b) => b.value - a.value);
  const offered = t('node.offered', { size: f.bytes(node.memory_budget_bytes) });
  return labelledMeter(t('node.memory'), offered, parts, used + free, [
    { kind: 'loaded', text: t('node.memory.loaded', { count: parts.length }), bytes: used },
    { kind: 'free', text: t('node.free'), bytes: free },
  ]);
}

/** `downloads`: result of `activeDownloads`. */
export function diskMeter(node, downloads) {
  const files = storedModels(node);
  const downloaded = downloads.reduce((sum, download) => sum + download.downloaded, 0);
  const unfinished = (node.partials ?? []).reduce((sum, { size_bytes: bytes }) => sum + bytes, 0);
  const parts = [
    { name: 'files', value: files.bytes, kind: 'files' },
    { name: 'coming', value: downloaded, kind: 'other' },
    { name: 'unfinished', value: unfinished, kind: 'unfinished' },
  ];
  const total = [files.bytes, downloaded, unfinished, node.disk_free_bytes]
    .map(shownBytes)
    .reduce((sum, bytes) => sum + bytes, 0);
  return labelledMeter(t('node.disk'), t('node.offered', { size: f.bytes(total) }), parts, total, [
    { kind: 'files', text: t('node.disk.files', { count: files.count }), bytes: files.bytes },
    ...(downloads.length ? [{ kind: 'other', text: t('node.disk.coming'), bytes: downloaded }] : []),
    ...(unfinished
      ? [{ kind: 'unfinished', text: t('node.disk.unfinished'), bytes: unfinished }]
      : []),
    { kind: 'free', text: t('node.free'), bytes: node.disk_free_bytes },
    // An empty bar would look like an empty disk.
  ], node.disk_free_bytes > 0 ? null : note(t('node.disk.full'), null, 'warning'));
}

/** Meter with a label, a legend [{kind, text, bytes}], and a warning below it. */
const labelledMeter = (label, offered, parts, total, legend, warning = null) => html`
  <div class="labelled-meter">
    <p class="labelled-meter-head"><strong>${label}</strong><span>${offered}</span></p>
    ${meter(label, parts, total, legend.map(({ text, bytes }) => `${text}: ${f.bytes(bytes)}`).join(', '))}
    <ul class="legend">
      ${legend.map(
        ({ kind, text, bytes }) => html`<li><i class="key ${kind}"></i>${text} <b>${f.bytes(bytes)}</b></li>`,
      )}
    </ul>
    ${warning}
  </div>`;
