/** Limits of API keys: display and form. */

import { html } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { formDialog } from '../../components/forms/dialog.js';
import { field } from '../../components/forms/field.js';

const LIMITS = ['requests_per_minute', 'tokens_per_minute', 'concurrent'];
// Same limit as the server.
const MAX_LIMIT = 1_000_000_000;

/** Lines for the limits that are set, in round numbers. */
export const limitLines = (limits) =>
  LIMITS.filter((name) => limits[name] !== null).map((name) =>
    t(`keys.limits.${name}.of`, { count: limits[name], number: f.compact(limits[name]) }),
  );

/**
 * Fields for the limits. A `ceiling` set by an administrator makes its field mandatory. `alone`: the dialog's
 * title already names them, so the legend is for screen readers only.
 */
export const limitFields = ({ limits = {}, ceiling = {}, alone = false } = {}) => html`
  <fieldset class="key-limits" aria-describedby="key-limits-hint">
    <legend class=${alone ? 'sr-only' : ''}>${t('keys.limits')}</legend>
    <p class="soft" id="key-limits-hint">${t('keys.limits.hint')}</p>
    <div class="key-limits-fields">
      ${LIMITS.map((name) => {
        const max = ceiling[name] ?? null;
        return field({
          name,
          label: t(`keys.limits.${name}`),
          hint: max === null ? null : t('keys.limits.most', { number: f.number(max) }),
          type: 'number',
          min: 1,
          max: max ?? MAX_LIMIT,
          value: limits[name] ?? null,
          optional: max === null,
        });
      })}
    </div>
  </fieldset>`;

/** Form values for the API; null for empty fields. */
export const limitsOf = (form) =>
  Object.fromEntries(LIMITS.map((name) => [name, form.get(name) ? Number(form.get(name)) : null]));

/** Resolves to true if the limits were changed. */
export const askForLimits = (app, { id, name, limits, ceiling }) =>
  formDialog({
    title: t('keys.limits.title', { name }),
    action: t('keys.limits.action'),
    fields: () => limitFields({ limits, ceiling: app.can('admin') ? {} : ceiling, alone: true }),
    perform: (form) => app.api.patch(`/api/keys/${encodeURIComponent(id)}`, { limits: limitsOf(form) }),
  });
