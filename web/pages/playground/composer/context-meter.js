/** Context meter: how much of the model's context the conversation and the draft take. */

import { html } from '../../../lib/html.js';
import { f, t } from '../../../core/i18n.js';

const NEARLY_FULL = 0.85;

/** `length`: the model's context in tokens, null while it is unknown. */
export function contextMeter(used, length) {
  if (!used || !length) return null;
  const share = used / length;
  const kind = share > 1 ? 'full' : share > NEARLY_FULL ? 'nearly-full' : '';
  const text = t('playground.context', { used: thousands(used), length: f.tokens(length) });
  return html`
    <div
      class="context-meter ${kind}"
      role="meter"
      aria-label=${t('playground.context.label')}
      aria-valuemin="0"
      aria-valuemax=${length}
      aria-valuenow=${Math.min(used, length)}
      aria-valuetext=${text}
      title=${t('playground.context.hint')}
    >
      <span class="context-track"><span class="context-fill" --share=${Math.min(1, share)}></span></span>
      <span>${text}</span>
    </div>`;
}

/** 6234 → "6.1K": like context lengths, in units of 1024. */
const thousands = (tokens) => (tokens < 1024 ? f.number(tokens) : `${f.number(tokens / 1024, 1)}K`);
