/** Key figures at the top of the Requests page. */

import { html } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';

/** `figures`: result of `currentFigures`. */
export const tiles = ({ system }, { active, tokensPerSecond, requests, busy, slots }) => html`
  <div class="tiles">
    ${tile('active', f.number(active))}
    ${tile('rate', f.number(tokensPerSecond, tokensPerSecond ? 1 : 0))}
    ${tile(
      'slots',
      slots ? t('requests.slots_of', { busy: f.number(busy), slots: f.number(slots) }) : f.number(null),
    )}
    ${tile('count', f.number(requests))}
  </div>
  <p class="requests-note soft">${
    system ? t('requests.since', { time: f.dateTime(system.started_at) }) : ''
  }</p>`;

const tile = (name, value) => html`
  <div class="tile" role="group" aria-labelledby=${`tile-${name}`}>
    <p class="tile-name" id=${`tile-${name}`}>${t(`requests.tile.${name}`)}</p>
    <p class="tile-value">${value}</p>
  </div>`;
