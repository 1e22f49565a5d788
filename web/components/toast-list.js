/** Short messages of what happened elsewhere. They leave by themselves, unless they tell of a failure. */

import { each, html } from '../lib/html.js';
import { t } from '../core/i18n.js';
import { icon } from './icons.js';

const STAYS_MS = 7000;
const ICONS = { success: 'check', error: 'alert', info: 'info' };

export function makeToasts(store) {
  const timers = new Map();

  const dismiss = (id) => store.dispatch({ type: 'dismiss', id });
  const leaveSoon = (id) => timers.set(id, setTimeout(dismiss, STAYS_MS, id));
  const stay = (id) => clearTimeout(timers.get(id));

  return {
    view: (notices) => {
      for (const { id, kind } of notices) if (kind !== 'error' && !timers.has(id)) leaveSoon(id);
      for (const id of timers.keys()) {
        if (notices.some((notice) => notice.id === id)) continue;
        stay(id);
        timers.delete(id);
      }
      return html`
        <div class="toasts" role="status" aria-live="polite">
          ${each(
            notices,
            ({ id }) => id,
            ({ id, kind, key, values, text }) => html`
              <div class="toast ${kind}" @pointerenter=${() => stay(id)} @pointerleave=${() => kind !== 'error' && leaveSoon(id)}>
                ${icon(ICONS[kind])}
                <p>${text ?? t(key, values)}</p>
                <button type="button" class="button quiet square" aria-label=${t('common.dismiss')} @click=${() => dismiss(id)}>
                  ${icon('close')}
                </button>
              </div>`,
          )}
        </div>`;
    },
  };
}
