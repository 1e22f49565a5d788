/** Engines of a node: the models in its memory and what they are doing. */

import { each, html } from '../../lib/html.js';
import { errorTextOf, f, t } from '../../core/i18n.js';
import { progressBar } from '../../components/progress.js';
import { busySlots, engineBadge, isServing, slotUsage } from '../../components/engine-status.js';
import { alertBox } from '../../components/feedback.js';
import { icon } from '../../components/icons.js';
import { storedModels } from './meters.js';

export const engineList = (state, node) => html`
  <div class="node-part">
    <h3>${t('node.engines')}</h3>
    ${
      node.engines.length
        ? html`
          <ul class="rows" aria-label=${t('node.engines')}>
            ${each(
              node.engines,
              (engine) => engine.model_id,
              (engine) => row(state, engine),
            )}
          </ul>`
        : html`<p class="soft">${t(
            storedModels(node).count ? 'node.engines.none' : 'node.engines.no_models',
          )}</p>`
    }
  </div>`;

function row({ models }, engine) {
  const name = models?.get(engine.model_id)?.model.name ?? engine.model_id;
  return html`
    <li class="engine">
      <div class="engine-name">
        <span>${name}</span>${engineBadge([engine])}
        ${
          engine.pinned
            ? html`<span class="engine-pinned">${icon('pin')}${t('node.engines.pinned')}</span>`
            : null
        }
      </div>
      <div class="engine-figures">
        ${isServing(engine) ? slotUsage(busySlots(engine), engine.slots, slotsText(engine)) : null}
        ${engine.context_length ? html`<span>${contextText(engine)}</span>` : null}
        ${isQuantized(engine) ? html`<span>${cacheText(engine)}</span>` : null}
        ${engine.draft ? html`<span>${draftText(engine.draft)}</span>` : null}
        ${engine.memory_bytes ? html`<span>${f.bytes(engine.memory_bytes)}</span>` : null}
      </div>
      ${
        engine.state === 'starting'
          ? progressBar(t('local.loading', { name }), engine.progress ?? null)
          : null
      }
      ${alertBox(errorTextOf(engine))}
    </li>`;
}

const contextText = (engine) => t('node.engines.context', { tokens: f.tokens(engine.context_length) });

const isQuantized = ({ kv_cache_type: type }) => Boolean(type) && type !== 'f16';

const cacheText = (engine) => t('node.engines.kv_cache', { type: engine.kv_cache_type });

/** Whether another model drafts, or the model itself. */
const draftText = ({ model_id: id, state, speculation }) =>
  t(`node.engines.draft.${state}`, { model: speculation ? t(`speculation.${speculation}`) : id });

const slotsText = (engine) =>
  t('node.engines.slots', {
    busy: f.number(busySlots(engine)),
    slots: f.number(engine.slots),
    count: engine.slots,
  });
