/** How much a key may ask for: told, asked for, changed. */

import { html } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { formDialog } from '../../components/forms/dialog.js';
import { field } from '../../components/forms/field.js';

const LIMITS = ['requests_per_minute', 'tokens_per_minute', 'concurrent'];
const MAX_LIMIT = 1_000_000_000; // the server's rule

/** What is limited, in round numbers; nothing where nothing is. */
export const limitLines = (limits) =>
  LIMITS.filter((name) => limits[name] !== null).map((name) =>
    t(`keys.limits.${name}.of`, { count: limits[name], number: f.compact(limits[name]) }),
  );

/**
 * Fields for them, within `ceiling`, which an administrator has set: under that a field cannot stay empty. `alone`: what they
 * are is said above them already.
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

/** What was put into the fields, as the API takes it: null where nothing was. */
export const limitsOf = (form) => Object.fromEntries(LIMITS.map((name) => [name, form.get(name) ? Number(form.get(name)) : null]));

/** Resolves to whether they were changed. */
export const askForLimits = (app, { id, name, limits, ceiling }) =>
  formDialog({
    title: t('keys.limits.title', { name }),
    action: t('keys.limits.action'),
    fields: () => limitFields({ limits, ceiling: app.can('admin') ? {} : ceiling, alone: true }),
    perform: (form) => app.api.patch(`/api/keys/${encodeURIComponent(id)}`, { limits: limitsOf(form) }),
  });
