/** Form field with a label and a hint. */

import { html } from '../../lib/html.js';
import { t } from '../../core/i18n.js';

// In characters; same limit as the server.
const PASSWORD_MIN_LENGTH = 8;

/** The hint is a description rather than part of the label, so that it is not part of the accessible name. */
export const field = ({
  name,
  label,
  hint = null,
  type = 'text',
  autocomplete = 'off',
  value = null,
  minLength = null,
  maxLength = null,
  min = null,
  max = null,
  step = null,
  list = null,
  optional = false,
  autofocus = false,
}) => html`
  <div class="field">
    <label for=${`field-${name}`}>${label}</label>
    <input
      id=${`field-${name}`}
      name=${name}
      type=${type}
      value=${value}
      ?required=${!optional}
      autocomplete=${autocomplete}
      autocapitalize="none"
      spellcheck="false"
      minlength=${minLength}
      maxlength=${maxLength}
      min=${min}
      max=${max}
      step=${step}
      list=${list}
      aria-describedby=${hint && `field-${name}-hint`}
      ?autofocus=${autofocus}
    />
    ${hint ? html`<small id=${`field-${name}-hint`}>${hint}</small>` : null}
  </div>`;

/** Field for a new password. */
export const newPasswordField = (options) =>
  field({
    type: 'password',
    autocomplete: 'new-password',
    minLength: PASSWORD_MIN_LENGTH,
    hint: t('password.hint', { count: PASSWORD_MIN_LENGTH }),
    ...options,
  });
