/** Engines, the processes that hold models in memory: what they do, and how many of their slots are busy. */

import { html } from '../lib/html.js';
import { t } from '../core/i18n.js';
import { badge } from './badges.js';

const MAX_DOTS = 16; // more slots than that are a bar

/** What the engines of one model do, in a word: the busiest of them speaks for all. */
export function engineBadge(engines) {
  const states = engines.map(({ state }) => state);
  if (states.includes('busy')) return badge('active', t('engine.busy'));
  if (states.includes('ready')) return badge('good', t('engine.ready'), 'check');
  if (states.includes('starting')) return badge('active', t('engine.starting'));
  if (states.includes('stopping')) return badge('waiting', t('engine.stopping'));
  if (states.includes('failed')) return badge('bad', t('engine.failed'), 'alert');
  return badge('', t('engine.stopped'));
}

/** Whether an engine answers requests now or could. */
export const isServing = ({ state }) => state === 'ready' || state === 'busy';

/** How many slots of an engine are at work. Its state is told at once, the count is as old as the API's last answer. */
export const busySlots = ({ state, busy }) => (state === 'busy' ? Math.max(1, busy) : 0);

/** `busy` of `slots` as dots, and as `text` says it. */
export const slotUsage = (busy, slots, text) => html`
  <span class="slots">
    ${slots > MAX_DOTS
      ? html`<span class="slots-bar" aria-hidden="true"><i --share=${busy / slots}></i></span>`
      : html`<span class="slots-dots" aria-hidden="true">
          ${Array.from({ length: slots }, (_, at) => html`<i class=${at < busy ? 'busy' : ''}></i>`)}
        </span>`}
    <span>${text}</span>
  </span>`;
