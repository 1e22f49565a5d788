/** Memory of a model by its three names, and the buttons that load, unload and pin it. */

import { html } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { isServing } from '../../components/engine-status.js';
import { icon } from '../../components/icons.js';
import { busyAttribute } from './actions.js';

/** Facts: the least memory of a model and, while it is loaded, its reserved and used memory. */
export function memoryFacts({ memory }) {
  const { reserved_bytes: reserved, used_bytes: used, slots, context_length: context } = memory;
  return html`
    ${fact('minimum', f.bytes(memory.minimum_bytes))}
    ${
      reserved === null
        ? null
        : fact(
            'reserved',
            html`${f.bytes(reserved)}${
              slots && context
                ? html`
                    <small class="beside of-figure">
                      ${t('local.slots_of', { slots, context: f.tokens(context) })}
                    </small>`
                : null
            }`,
          )
    }
    ${used === null ? null : fact('used', f.bytes(used))}`;
}

const fact = (name, value) => html`
  <div><dt>${t(`memory.${name}`)}</dt><dd>${value}</dd></div>`;

export function engineButtons(app, actions, item, actionState) {
  const { model, replicas } = item;
  if (item.status !== 'Ready') return null;
  const loaded = replicas.some(({ engine }) => engine && isServing(engine));
  const busy = busyAttribute(actionState);
  const openLoad = async () => {
    const { openLoadDialog } = await import('./details/load-dialog.js');
    openLoadDialog(app, item, (options) => actions.load(model.id, options));
  };
  return html`
    <button type="button" class="button small" aria-disabled=${busy} @click=${openLoad}>
      ${icon('sliders')}${t('action.load_options')}
    </button>
    <button
      type="button"
      class="button small ${item.pinned ? 'tinted' : ''}"
      aria-pressed=${String(item.pinned)}
      aria-disabled=${busy}
      @click=${() => actions.pin(model.id, !item.pinned, { loaded })}
    >
      ${icon('pin')}${t('action.pin')}
    </button>
    ${
      loaded
        ? html`<button
              type="button"
              class="button small"
              aria-disabled=${busy}
              @click=${() => actions.unload(model.id, item)}
            >${t('action.unload')}</button>`
        : null
    }`;
}
