/** Form of the link that llb prints at its start: chooses the first password, once. */

import { html } from '../../lib/html.js';
import { t } from '../../core/i18n.js';
import { alertBox, errorMessage } from '../../components/feedback.js';
import { field, newPasswordField } from '../../components/forms/field.js';

/** Token in the fragment of the address, which a browser never sends; null without one. */
export const setupTokenOf = (hash) => new URLSearchParams(hash.replace(/^#/, '')).get('setup');

export function createSetupForm(app, token) {
  let problem = null;
  let busy = false;

  async function submit(event) {
    event.preventDefault();
    if (busy) return;
    const { fresh, again } = event.currentTarget.elements;
    [busy, problem] = [true, null];
    app.requestRender();
    try {
      if (fresh.value !== again.value) {
        problem = t('password.differ');
        again.focus();
      } else await app.setUp(token, fresh.value);
    } catch (error) {
      problem = error.code === 'invalid_credentials' ? t('login.setup_invalid') : errorMessage(error);
      fresh.focus();
    } finally {
      busy = false;
      app.requestRender();
    }
  }

  return {
    view: () => html`
      <p class="note">${t('login.setup_hint')}</p>
      <form @submit=${submit}>
        <input name="username" value="admin" autocomplete="username" hidden />
        ${newPasswordField({ name: 'fresh', label: t('password.new'), autofocus: true })}
        ${field({
          name: 'again',
          label: t('password.again'),
          type: 'password',
          autocomplete: 'new-password',
        })}
        ${alertBox(problem)}
        <button
          class="button primary wide"
          aria-disabled=${busy ? 'true' : null}
        >${t('login.setup_submit')}</button>
      </form>`,
  };
}
