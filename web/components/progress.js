/** Progress bars (`progressbar`) and meters (`meter`). */

import { html } from '../lib/html.js';
import { f } from '../core/i18n.js';

/** `share` from 0 to 1, or null if unknown. Screen readers read `text` instead of the number. */
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
 * Meter of several parts: [{name, value, kind}]; the rest of `total` is free. Its value is the sum of the
 * parts, `text` its text alternative. `kind` is files, loaded or other, and selects the colour of the legend.
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
        (part) =>
          html`<div class="meter-part ${part.kind}" --share=${total > 0 ? part.value / total : 0}></div>`,
      )}
    </div>`;
};
