/** Login page. */

import { html } from '../../lib/html.js';
import { LOCALES, locale, t } from '../../core/i18n.js';
import { logo } from '../../components/icons.js';
import { alertBox, errorMessage } from '../../components/feedback.js';

export const title = () => t('login.title');

export function open(app) {
  let error = null;
  let busy = false;

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

  return {
    view: ({ sessionEnded }) => html`
      <main class="login" id="main" tabindex="-1">
        <div class="login-box">
          <div class="login-head">${logo()}<h1>${t('login.title')}</h1></div>
          ${sessionEnded ? html`<p class="note" role="status">${t('login.ended')}</p>` : null}
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
          </form>
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
