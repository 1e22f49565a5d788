/** What stands where content is not: loading, nothing there, something failed. */

import { html } from '../lib/html.js';
import { hasText, t } from '../core/i18n.js';
import { icon } from './icons.js';

/** An ApiError (or any Error) in a sentence of the reader's language; the server's own words where they say more. */
export function errorMessage(error) {
  const key = `error.${error.code ?? 'unexpected'}`;
  const own = error.message && error.message !== error.code ? error.message : '';
  if (hasText(key)) return t(key, { message: own, seconds: error.retryAfter ?? '', ...error.details }).trim();
  return own || t('error.unexpected', { message: '' });
}

/** An `alert`; nothing where `message` is empty. `action`: a template that stands behind the words. */
export const alertBox = (message, action = null) =>
  message
    ? html`<div class="alert" role="alert">${icon('alert')}<p>${message}</p>${action}</div>`
    : null;

/** A calm note of something that a person should know; a `warning` of something that has to be done first. */
export const note = (message, action = null, kind = '') =>
  html`<div class="note ${kind}">${icon(kind ? 'alert' : 'info')}<p>${message}</p>${action}</div>`;

/** Nothing is there yet, and what to do about it. */
export const emptyState = (iconName, title, text, action = null) => html`
  <div class="empty">
    ${icon(iconName, 'large')}
    <h2>${title}</h2>
    <p>${text}</p>
    ${action}
  </div>`;

/** Grey shapes in the place of `count` cards, so that nothing jumps when they come. */
export const skeletons = (count, className = 'card') => html`
  <div class="skeletons ${className}s" role="status">
    <span class="sr-only">${t('common.loading')}</span>
    ${Array.from({ length: count }, () => html`<div class="skeleton ${className}" aria-hidden="true"></div>`)}
  </div>`;
