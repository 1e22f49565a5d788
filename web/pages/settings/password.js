/** Form for changing one's own password. */

import { html } from '../../lib/html.js';
import { t } from '../../core/i18n.js';
import { alertBox, errorMessage } from '../../components/feedback.js';
import { field, newPasswordField } from '../../components/forms/field.js';

/** `focused`: whether the user came here to change it. */
export function createPasswordForm(app, { focused }) {
  let busy = false;
  let problem = null;
  let done = false;

  /** Shows the error and moves the focus to the field concerned. */
  function refuse(text, input) {
    problem = text;
    input.focus();
  }

  async function submit(event) {
    event.preventDefault();
    if (busy) return;
    const form = event.currentTarget;
    const { current, fresh, again } = form.elements;
    [busy, problem, done] = [true, null, false];
    app.requestRender();
    try {
      if (fresh.value !== again.value) return refuse(t('password.differ'), again);
      const { ended_keys: endedKeys } = await app.api.post('/api/auth/password', {
        current_password: current.value,
        new_password: fresh.value,
      });
      form.reset();
      done = true;
      if (endedKeys.length)
        app.showToast({ kind: 'info', text: t('password.ended_keys', { keys: endedKeys.join(', ') }) });
      await app.refreshMe();
    } catch (error) {
      if (error.code === 'invalid_credentials') refuse(t('password.wrong'), current);
      else refuse(errorMessage(error), fresh);
    } finally {
      busy = false;
      app.requestRender();
    }
  }

  return {
    view: ({ me }) => html`
      <section class="card settings-card" aria-labelledby="password">
        <h2 id="password">${t('password.title')}</h2>
        <form class="form" @submit=${submit}>
          <input name="username" autocomplete="username" value=${me?.user?.username ?? ''} readonly hidden />
          ${field({
            name: 'current',
            label: t('password.current'),
            type: 'password',
            autocomplete: 'current-password',
            autofocus: focused,
          })}
          ${newPasswordField({ name: 'fresh', label: t('password.new') })}
          ${newPasswordField({ name: 'again', label: t('password.again'), hint: null })}
          ${alertBox(problem)}
          <div class="buttons">
            <button
              class="button primary"
              aria-disabled=${busy ? 'true' : null}
            >${t('password.action')}</button>
            <p role="status" class="settings-done">${done ? t('password.done') : ''}</p>
          </div>
        </form>
      </section>`,
  };
}
