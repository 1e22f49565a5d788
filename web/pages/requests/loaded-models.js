/** Loaded models: one row per model over all nodes. */

import { each, html } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { busySlots, engineBadge, isServing, slotUsage } from '../../components/engine-status.js';

export function loadedModels({ nodes, models }) {
  const loaded = groupByModel(nodes);
  return html`
    <section class="card loaded-models" aria-labelledby="requests-loaded-models">
      <h2 id="requests-loaded-models">${t('requests.loads')}</h2>
      ${
        loaded.length
          ? html`
            <table class="table">
              <thead>
                <tr>
                  <th scope="col">${t('requests.loads.model')}</th>
                  <th scope="col">${t('requests.loads.slots')}</th>
                  <th scope="col" class="extra">${t('requests.loads.nodes')}</th>
                  <th scope="col" class="number extra">${t('requests.loads.memory')}</th>
                </tr>
              </thead>
              <tbody>
                ${each(
                  loaded,
                  ({ id }) => id,
                  (group) => row(models, group),
                )}
              </tbody>
            </table>`
          : html`<p class="soft">${t('requests.loads.none')}</p>`
      }
    </section>`;
}

/** [{id, engines, names, busy, slots, memory}], the busiest first; `names` are node names. */
function groupByModel(nodes) {
  const loadedModels = new Map();
  for (const node of nodes.values()) {
    if (node.status !== 'online') continue;
    for (const engine of node.engines) {
      const id = engine.model_id;
      const group = loadedModels.get(id) ?? { id, engines: [], names: [], busy: 0, slots: 0, memory: 0 };
      loadedModels.set(id, group);
      group.engines.push(engine);
      group.names.push(node.name);
      group.memory += engine.memory_bytes;
      if (!isServing(engine)) continue;
      group.busy += busySlots(engine);
      group.slots += engine.slots;
    }
  }
  return [...loadedModels.values()].sort((a, b) => b.busy - a.busy);
}

const row = (models, { id, engines, names, busy, slots, memory }) => html`
  <tr>
    <th scope="row"><span class="loaded-model">${
      models.get(id)?.model.name ?? id
    } ${engineBadge(engines)}</span></th>
    <td>${slots ? slotUsage(busy, slots, slotsText(busy, slots)) : null}</td>
    <td class="extra">${names.sort().join(', ')}</td>
    <td class="number extra">${f.bytes(memory)}</td>
  </tr>`;

const slotsText = (busy, slots) => t('requests.slots_of', { busy: f.number(busy), slots: f.number(slots) });
