/** Feedback: loading, empty and error states. */

import { html } from '../lib/html.js';
import { f, hasText, serverText, t } from '../core/i18n.js';
import { icon } from './icons.js';

/**
 * Message for an ApiError or any other Error, in the current language. Uses the server's message where that
 * is more specific.
 */
export function errorMessage(error) {
  const key = `error.${error.code ?? 'unexpected'}`;
  const said = error.message && error.message !== error.code ? error.message : '';
  const own = serverText(said, error.details?.message_code);
  const values = { message: own, seconds: error.retryAfter ?? '', ...sizesOf(error) };
  if (hasText(key)) return t(key, values).trim();
  return own || t('error.unexpected', { message: '' });
}

/** Details of an error, sizes in bytes as text. */
const sizesOf = ({ details = {} }) =>
  Object.fromEntries(
    Object.entries(details).map(([name, value]) => [name, name.endsWith('_bytes') ? f.bytes(value) : value]),
  );

/** Alert, or null if `message` is empty. `action`: template shown after the message. */
export const alertBox = (message, action = null) =>
  message ? html`<div class="alert" role="alert">${icon('alert')}<p>${message}</p>${action}</div>` : null;

/** Note; with the kind `warning` it asks for an action first. */
export const note = (message, action = null, kind = '') =>
  html`<div class="note ${kind}">${icon(kind ? 'alert' : 'info')}<p>${message}</p>${action}</div>`;

/** Empty state: names the missing thing, and the action that helps. */
export const emptyState = (iconName, title, text, action = null) => html`
  <div class="empty">
    ${icon(iconName, 'large')}
    <h2>${title}</h2>
    <p>${text}</p>
    ${action}
  </div>`;

/** Placeholders for `count` cards, so that the layout does not jump when they arrive. */
export const skeletons = (count, className = 'card') => html`
  <div class="skeletons ${className}s" role="status">
    <span class="sr-only">${t('common.loading')}</span>
    ${Array.from({ length: count }, () => html`<div class="skeleton ${className}" aria-hidden="true"></div>`)}
  </div>`;
