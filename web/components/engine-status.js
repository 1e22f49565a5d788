/** Engine status: engines are the processes that keep models in memory. */

import { html } from '../lib/html.js';
import { t } from '../core/i18n.js';
import { badge } from './badges.js';

// With more slots than this, a bar is shown instead of dots.
const MAX_DOTS = 16;

/** Badge for all engines of a model; the most active engine determines the text. */
export function engineBadge(engines) {
  const states = engines.map(({ state }) => state);
  if (states.includes('busy')) return badge('active', t('engine.busy'));
  if (states.includes('ready')) return badge('good', t('engine.ready'), 'check');
  if (states.includes('starting')) return badge('active', t('engine.starting'));
  if (states.includes('stopping')) return badge('waiting', t('engine.stopping'));
  if (states.includes('failed')) return badge('bad', t('engine.failed'), 'alert');
  return badge('', t('engine.stopped'));
}

/** Whether an engine serves requests or is ready to. */
export const isServing = ({ state }) => state === 'ready' || state === 'busy';

/**
 * Number of busy slots. The state is pushed immediately, whereas the count is as old as the last API
 * response.
 */
export const busySlots = ({ state, busy }) => (state === 'busy' ? Math.max(1, busy) : 0);

/** Busy slots as dots or a bar, followed by `text`. */
export const slotUsage = (busy, slots, text) => html`
  <span class="slots">
    ${
      slots > MAX_DOTS
        ? html`<span class="slots-bar" aria-hidden="true"><i --share=${busy / slots}></i></span>`
        : html`<span class="slots-dots" aria-hidden="true">
          ${Array.from({ length: slots }, (_, at) => html`<i class=${at < busy ? 'busy' : ''}></i>`)}
        </span>`
    }
    <span>${text}</span>
  </span>`;
