/** Bars: of something that goes on (`progressbar`) and of something that is there (`meter`). */

import { html } from '../lib/html.js';
import { f } from '../core/i18n.js';

/** `share` 0–1; null: it goes on, nobody knows how far. `text` is what a screen reader says instead of the number. */
export const progressBar = (label, share, text = null) => html`
  <div
    class="progress ${share === null ? 'unknown' : ''}"
    role="progressbar"
    aria-label=${label}
    aria-valuemin="0"
    aria-valuemax="100"
    aria-valuenow=${share === null ? null : Math.floor(share * 100 + 1e-9)}
    aria-valuetext=${text}
  >
    <div class="progress-fill" --share=${share ?? 0}></div>
  </div>`;

/**
 * A bar of parts: [{name, value, kind}], what is left of `total` is free. Its value is the sum of the parts; `text` says
 * it in words. `kind` is one of files, loaded, other: the colours of the legend.
 */
export const meter = (label, parts, total, text) => {
  const used = parts.reduce((sum, part) => sum + part.value, 0);
  const share = total > 0 ? Math.min(1, used / total) : 0;
  return html`
    <div
      class="meter ${share > 0.9 ? 'nearly-full' : ''}"
      role="meter"
      aria-label=${label}
      aria-valuemin="0"
      aria-valuemax="100"
      aria-valuenow=${Math.round(share * 100)}
      aria-valuetext=${text ?? f.percent(share)}
    >
      ${parts.map(
        (part) => html`<div class="meter-part ${part.kind}" --share=${total > 0 ? part.value / total : 0}></div>`,
      )}
    </div>`;
};
