/** Badges: the status of a model, and whether it fits into memory. */

import { html } from '../lib/html.js';
import { f, t } from '../core/i18n.js';
import { icon } from './icons.js';

export const badge = (kind, text, iconName = null) =>
  html`<span class="badge ${kind}">${iconName ? icon(iconName) : html`<i class="dot"></i>`}${text}</span>`;

export const statusBadge = (status) =>
  badge(`status-${status.toLowerCase()}`, t(`status.${status}`), { Ready: 'check', Error: 'alert' }[status]);

/** Badge of the memory check. The numbers are in the tooltip and in the text for screen readers. */
export function fitBadge({ verdict, required_bytes, available_bytes, node_name }) {
  const numbers = t(available_bytes === null ? 'fit.numbers_unknown' : 'fit.numbers', {
    required: f.bytes(required_bytes),
    available: f.bytes(available_bytes),
    node: node_name ?? t('fit.no_node'),
  });
  return html`
    <span class="badge fit-${verdict}" title=${numbers}>
      <i class="dot"></i><span>${t(`fit.${verdict}`)}<span class="sr-only">: ${numbers}</span></span>
    </span>`;
}
