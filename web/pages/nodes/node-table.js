/** Table of many nodes: a row for each, which opens its card. */

import { html } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { dataTable } from '../../components/data-table.js';
import { memoryUsed } from './meters.js';
import { isOnline, nodeBadge } from './status.js';

/** `opened`: id of the node whose card is shown, or null; `open(id)` is called with the one to show. */
export const nodeTable = (state, nodes, opened, open) => html`
  <section class="card node-table" aria-labelledby="node-table">
    <h2 id="node-table" class="sr-only">${t('nodes.table')}</h2>
    ${dataTable({
      labelledBy: 'node-table',
      columns: columns(state, nodes, opened, open),
      rows: nodes,
      key: ({ id }) => id,
    })}
  </section>`;

const columns = ({ models, traffic }, nodes, opened, open) =>
  [
    {
      title: t('node.edit.name'),
      cell: (node) => html`
        <button
          type="button"
          class="node-open"
          aria-expanded=${String(node.id === opened)}
          @click=${() => open(node.id === opened ? null : node.id)}
        >
          ${node.name}
        </button>`,
    },
    { title: t('nodes.table.status'), cell: nodeBadge },
    { title: t('node.cpu'), kind: 'number', cell: online(({ meters }) => f.percent(meters.cpu_usage)) },
    {
      title: t('node.memory'),
      kind: 'number',
      cell: online((node) =>
        t('nodes.table.memory', {
          used: f.bytes(memoryUsed(node)),
          budget: f.bytes(node.memory_budget_bytes),
        }),
      ),
    },
    nodes.some(({ meters }) => (meters?.gpu_usage ?? null) !== null) && {
      title: t('node.gpu'),
      kind: 'number',
      cell: online(({ meters }) => (meters.gpu_usage === null ? '–' : f.percent(meters.gpu_usage))),
    },
    {
      title: t('node.engines'),
      cell: online(
        ({ engines }) =>
          engines.map(({ model_id: id }) => models?.get(id)?.model.name ?? id).join(', ') || '–',
      ),
    },
    {
      title: t('nodes.table.rate'),
      kind: 'number',
      cell: online(({ id }) => f.number(traffic.get(id)?.tokensPerSecond ?? 0, 1)),
    },
    {
      title: t('nodes.table.requests'),
      kind: 'number',
      cell: online(({ active_requests: active, slots }) =>
        slots ? `${active} / ${slots}` : f.number(active),
      ),
    },
    {
      title: t('nodes.table.disk'),
      kind: 'number',
      cell: online(({ disk_free_bytes: free }) => f.bytes(free)),
    },
  ].filter(Boolean);

/** Figures of a node that is away are out of date. */
const online = (view) => (node) => (isOnline(node) ? view(node) : '–');
