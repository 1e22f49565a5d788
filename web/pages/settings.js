/** Settings: how the page looks, one's own password, and what this server is and was told. */

import { html } from '../lib/html.js';
import { LOCALES, locale, t } from '../core/i18n.js';
import { recall, useTheme } from '../core/settings.js';
import { openPassword } from './settings/password.js';
import { serverSections } from './settings/server.js';

export const title = () => t('nav.settings');

const THEMES = ['system', 'light', 'dark'];

export function open(app, route) {
  const password = openPassword(app, { focused: route.query.focus === 'password' });

  const choice = (name, value, text, chosen, choose) => html`
    <label class="choice">
      <input type="radio" name=${name} value=${value} .checked=${chosen} @change=${choose} />
      <span>${text}</span>
    </label>`;

  const appearance = () => html`
    <section class="card settings-card" aria-labelledby="appearance">
      <h2 id="appearance">${t('settings.appearance')}</h2>
      <fieldset class="choices">
        <legend>${t('settings.theme')}</legend>
        ${THEMES.map((name) =>
          choice('theme', name, t(`settings.theme.${name}`), (recall('theme') ?? 'system') === name, () => {
            useTheme(name === 'system' ? null : name);
            app.touch();
          }),
        )}
      </fieldset>
      <fieldset class="choices">
        <legend>${t('settings.language')}</legend>
        ${Object.entries(LOCALES).map(([name, text]) => choice('language', name, text, locale() === name, () => app.chooseLocale(name)))}
      </fieldset>
    </section>`;

  return {
    view: (state) => html`
      <div class="page settings">
        <div class="page-head"><h1 tabindex="-1">${t('nav.settings')}</h1></div>
        <div class="stack">
          ${appearance()} ${state.me?.kind === 'session' ? password.view(state) : null} ${serverSections(state)}
        </div>
      </div>`,
  };
}
