/** Login page. */

import { html } from '../../lib/html.js';
import { LOCALES, locale, serverText, t } from '../../core/i18n.js';
import { logo } from '../../components/icons.js';
import { alertBox, errorMessage, note } from '../../components/feedback.js';
import { createSetupForm, setupTokenOf } from './setup-form.js';

export const title = () => t('login.title');

export function open(app) {
  let error = null;
  let busy = false;
  // Why the default password, if it is in use, does not work from here.
  let refusedBecause = null;
  // Whether it is in use and works from here.
  let hasDefaultPassword = false;
  let passwordShown = false;
  const token = setupTokenOf(location.hash);
  const setup = token && createSetupForm(app, token);

  async function loadSetupState() {
    try {
      const state = await app.api.get('/api/auth/setup');
      refusedBecause = serverText(state.refused_because, state.refused_because_code);
      hasDefaultPassword = state.default_password && !refusedBecause;
      app.requestRender();
    } catch {
      // Signing in reports the error.
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

  function inputType() {
    if (passwordShown) return 'text';
    return 'password';
  }

  const togglePassword = () => {
    passwordShown = !passwordShown;
    app.requestRender();
  };

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
        <div class="field">
          <label for="login-password">${t('login.password')}</label>
          <span class="password-input">
            <input
              id="login-password"
              name="password"
              type=${inputType()}
              autocomplete="current-password"
              autocapitalize="none"
              spellcheck="false"
              required
            />
            <button
              type="button"
              class="button quiet small"
              aria-pressed=${String(passwordShown)}
              aria-controls="login-password"
              @click=${togglePassword}
            >${t(passwordShown ? 'login.hide' : 'login.show')}</button>
          </span>
        </div>
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
          ${hasDefaultPassword && !setup ? note(t('login.default_password')) : null}
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
