/** Login page. */

import { html } from '../../lib/html.js';
import { LOCALES, locale, t } from '../../core/i18n.js';
import { logo } from '../../components/icons.js';
import { alertBox, errorMessage, note } from '../../components/feedback.js';
import { createSetupForm, setupTokenOf } from './setup-form.js';

export const title = () => t('login.title');

export function open(app) {
  let error = null;
  let busy = false;
  // Why the default password, if it is in use, does not work from here.
  let refusedBecause = null;
  const token = setupTokenOf(location.hash);
  const setup = token && createSetupForm(app, token);

  async function loadSetupState() {
    try {
      refusedBecause = (await app.api.get('/api/auth/setup')).refused_because;
      app.requestRender();
    } catch {
      // Signing in reports what is wrong.
    }
  }
  loadSetupState();

  async function submit(event) {
    event.preventDefault();
    if (busy) return;
    const form = event.currentTarget;
    busy = true;
    error = null;
    app.requestRender();
    try {
      const { username, password } = Object.fromEntries(new FormData(form));
      await app.signIn(username, password);
    } catch (failure) {
      error = failure;
      form.elements.password.value = '';
      form.elements.password.focus();
    } finally {
      busy = false;
      app.requestRender();
    }
  }

  const passwordForm = () => html`
      <form @submit=${submit}>
        <label class="field">
          <span>${t('login.username')}</span>
          <input
            name="username"
            autocomplete="username"
            autocapitalize="none"
            spellcheck="false"
            required
            autofocus
          />
        </label>
        <label class="field">
          <span>${t('login.password')}</span>
          <input name="password" type="password" autocomplete="current-password" required />
        </label>
        ${alertBox(error && errorMessage(error))}
        <button
          class="button primary wide"
          aria-disabled=${busy ? 'true' : null}
        >${t('login.submit')}</button>
      </form>`;

  return {
    view: ({ sessionEnded }) => html`
      <main class="login" id="main" tabindex="-1">
        <div class="login-box">
          <div class="login-head">${logo()}<h1>${t(setup ? 'login.setup_title' : 'login.title')}</h1></div>
          ${sessionEnded ? html`<p class="note" role="status">${t('login.ended')}</p>` : null}
          ${
            refusedBecause && !setup
              ? note(t('login.not_local', { reason: refusedBecause }), null, 'warning')
              : null
          }
          ${setup ? setup.view() : passwordForm()}
        </div>
        <p class="login-languages">
          ${Object.entries(LOCALES).map(
            ([name, text]) => html`
              <button
                type="button"
                class="button quiet small"
                id=${`language-${name}`}
                lang=${name}
                aria-pressed=${String(name === locale())}
                @click=${() => app.setLocale(name)}
              >
                ${text}
              </button>`,
          )}
        </p>
      </main>`,
  };
}
