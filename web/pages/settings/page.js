/** Settings page: appearance, own password and server information. */

import { html } from '../../lib/html.js';
import { LOCALES, locale, t } from '../../core/i18n.js';
import { readPreference, setTheme } from '../../core/preferences.js';
import { choices } from '../../components/forms/choices.js';
import { createPasswordForm } from './password.js';
import { createServerSection } from './server.js';

export const title = () => t('nav.settings');

const BY_SYSTEM = 'system';
const THEMES = [BY_SYSTEM, 'light', 'dark'];

export function open(app, route) {
  const password = createPasswordForm(app, { focused: route.query.focus === 'password' });
  const server = createServerSection(app);

  function chooseTheme(name) {
    setTheme(name === BY_SYSTEM ? null : name);
    app.requestRender();
  }

  const appearance = () => html`
    <section class="card settings-card" aria-labelledby="appearance">
      <h2 id="appearance">${t('settings.appearance')}</h2>
      <div class="settings-pair">
        ${choices({
          legend: t('settings.theme'),
          name: 'theme',
          options: THEMES.map((name) => ({ value: name, text: t(`settings.theme.${name}`) })),
          isChosen: (name) => name === (readPreference('theme') ?? BY_SYSTEM),
          onChoose: chooseTheme,
        })}
        ${choices({
          legend: t('settings.language'),
          name: 'language',
          options: Object.entries(LOCALES).map(([name, text]) => ({ value: name, text })),
          isChosen: (name) => name === locale(),
          onChoose: app.setLocale,
        })}
      </div>
    </section>`;

  return {
    view: (state) => html`
      <div class="page settings">
        <div class="page-head"><h1 tabindex="-1">${t('nav.settings')}</h1></div>
        <div class="stack">
          ${appearance()} ${state.me?.kind === 'session' ? password.view(state) : null} ${server.view(state)}
        </div>
      </div>`,
  };
}
