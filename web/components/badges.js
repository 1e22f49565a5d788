/** Badges of states, and the memory check in words. */

import { html } from '../lib/html.js';
import { f, hasText, t } from '../core/i18n.js';
import { icon } from './icons.js';

export const badge = (kind, text, iconName = null) =>
  html`<span class="badge ${kind}">${iconName ? icon(iconName) : html`<i class="dot"></i>`}${text}</span>`;

/** An error code in a word or two; a code that the page does not know is shown as it is. */
export const errorCodeText = (code) =>
  hasText(`code.${code}`) ? t(`code.${code}`) : code.replaceAll('_', ' ');

export const modelBadge = (status) =>
  badge(`status-${status.toLowerCase()}`, t(`status.${status}`), { Ready: 'check', Error: 'alert' }[status]);

/** The numbers of the memory check: what the model needs, and what the best node has. */
export const fitText = ({ required_bytes: required, available_bytes: available, node_name: name }) =>
  t(available === null ? 'fit.numbers_unknown' : 'fit.numbers', {
    required: f.bytes(required),
    available: f.bytes(available),
    node: name ?? t('fit.no_node'),
  });
