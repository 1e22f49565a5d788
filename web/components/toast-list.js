/** Toasts: short messages about background events. They disappear after a while, except errors. */

import { each, html } from '../lib/html.js';
import { errorTextOf, t } from '../core/i18n.js';
import { icon } from './icons.js';

const VISIBLE_MS = 7000;
const ICONS = { success: 'check', error: 'alert', info: 'info' };

const toastText = (key, values) =>
  t(key, values?.error ? { ...values, error: errorTextOf(values) } : values);

export function createToastList(store) {
  const timers = new Map();

  const dismiss = (id) => store.dispatch({ type: 'dismissToast', id });
  const startTimer = (id) => timers.set(id, setTimeout(dismiss, VISIBLE_MS, id));
  const stopTimer = (id) => clearTimeout(timers.get(id));

  return {
    view: (toasts) => {
      for (const { id, kind } of toasts) if (kind !== 'error' && !timers.has(id)) startTimer(id);
      for (const id of timers.keys()) {
        if (toasts.some((toast) => toast.id === id)) continue;
        stopTimer(id);
        timers.delete(id);
      }
      return html`
        <div class="toasts" role="status" aria-live="polite">
          ${each(
            toasts,
            ({ id }) => id,
            ({ id, kind, key, values, text, href }) => html`
              <div
                class="toast ${kind}"
                @pointerenter=${() => stopTimer(id)}
                @pointerleave=${() => kind !== 'error' && startTimer(id)}
              >
                ${icon(ICONS[kind])}
                <p>${text ?? toastText(key, values)}</p>
                ${
                  href
                    ? html`<a class="button small" href=${href} @click=${() => dismiss(id)}>
                      ${t('common.show')}
                    </a>`
                    : null
                }
                <button
                  type="button"
                  class="button quiet square"
                  aria-label=${t('common.dismiss')}
                  @click=${() => dismiss(id)}
                >
                  ${icon('close')}
                </button>
              </div>`,
          )}
        </div>`;
    },
  };
}
