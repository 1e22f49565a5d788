/** A field of a form, with its name and a hint. */

import { html } from '../../lib/html.js';
import { t } from '../../core/i18n.js';

const PASSWORD_LEAST = 8; // characters; the server's rule

/** The hint describes the field; as a part of its name it would be read, and looked for, with it. */
export const field = ({
  name,
  label,
  hint = null,
  type = 'text',
  autocomplete = 'off',
  value = null,
  least = null,
  most = null,
  lowest = null,
  highest = null,
  optional = false,
  focus = false,
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
      minlength=${least}
      maxlength=${most}
      min=${lowest}
      max=${highest}
      aria-describedby=${hint && `field-${name}-hint`}
      ?autofocus=${focus}
    />
    ${hint ? html`<small id=${`field-${name}-hint`}>${hint}</small>` : null}
  </div>`;

/** A field for a password that is being chosen. */
export const newPasswordField = (options) =>
  field({
    type: 'password',
    autocomplete: 'new-password',
    least: PASSWORD_LEAST,
    hint: t('password.hint', { count: PASSWORD_LEAST }),
    ...options,
  });
