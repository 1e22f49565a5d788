/** One's own password. */

import { html } from '../../lib/html.js';
import { t } from '../../core/i18n.js';
import { alertBox, explain } from '../../components/feedback.js';

const LEAST = 8;

/** `focused`: whether a person came here to change it. */
export function openPassword(app, { focused }) {
  let busy = false;
  let problem = null;
  let done = false;

  async function submit(event) {
    event.preventDefault();
    if (busy) return;
    const form = event.currentTarget;
    const { current, fresh, again } = Object.fromEntries(new FormData(form));
    done = false;
    problem = fresh === again ? null : t('password.differ');
    busy = !problem;
    app.touch();
    if (problem) return;
    try {
      await app.api.post('/api/auth/password', { current_password: current, new_password: fresh });
      form.reset();
      done = true;
      await app.refreshMe();
    } catch (error) {
      problem = error.code === 'invalid_credentials' ? t('password.wrong') : explain(error);
    } finally {
      busy = false;
      app.touch();
    }
  }

  // The hint describes the field; in its name it would be read, and looked for, as a part of it.
  const field = (name, label, autocomplete, { least = null, hint = null, focus = false } = {}) => html`
    <label class="field">
      <span id=${`password-${name}`}>${label}</span>
      <input
        name=${name}
        type="password"
        required
        minlength=${least}
        autocomplete=${autocomplete}
        aria-labelledby=${`password-${name}`}
        aria-describedby=${hint && `password-${name}-hint`}
        ?autofocus=${focus}
      />
      ${hint ? html`<small id=${`password-${name}-hint`}>${hint}</small>` : null}
    </label>`;

  return {
    view: ({ me }) => html`
      <section class="card settings-card" aria-labelledby="password">
        <h2 id="password">${t('password.title')}</h2>
        <form class="form" @submit=${submit}>
          <input class="sr-only" name="username" autocomplete="username" value=${me?.user?.username ?? ''} readonly tabindex="-1" aria-hidden="true" />
          ${field('current', t('password.current'), 'current-password', { focus: focused })}
          ${field('fresh', t('password.new'), 'new-password', { least: LEAST, hint: t('password.hint', { count: LEAST }) })}
          ${field('again', t('password.again'), 'new-password', { least: LEAST })}
          ${alertBox(problem)}
          <p role="status" class="settings-done">${done ? t('password.done') : ''}</p>
          <div class="buttons"><button class="button primary" aria-disabled=${busy ? 'true' : null}>${t('password.action')}</button></div>
        </form>
      </section>`,
  };
}
