/** How another machine joins: one command to paste there, and a word when it has. */

import { html } from '../../lib/html.js';
import { f, hasText, t } from '../../core/i18n.js';
import { copyBox } from '../../components/copy-button.js';
import { openDialog } from '../../components/forms/dialog.js';
import { alertBox, explain, note } from '../../components/feedback.js';
import { icon } from '../../components/icons.js';

export function makeAdding(app) {
  let asking = false;

  /** Have a command made, and show it: {made} or {error}. */
  async function ask() {
    try {
      return { made: await app.api.post('/api/nodes/join-tokens'), error: null };
    } catch (error) {
      return { made: null, error };
    }
  }

  async function open() {
    if (asking) return;
    asking = true;
    app.touch();
    const first = await ask();
    asking = false;
    app.touch();
    const here = new Set(app.store.state.nodes?.keys());
    const come = () => [...(app.store.state.nodes?.values() ?? [])].filter(({ id }) => !here.has(id));
    await openDialog(
      (dialog) => view(dialog, come()),
      first,
      (update) => app.store.subscribe(() => update({})),
    );
  }

  function view({ close, update, state }, come) {
    const renew = async () => {
      if (state.busy) return;
      update({ busy: true });
      update({ busy: false, ...(await ask()) });
    };
    const { made, error } = state;
    return {
      title: t('nodes.add'),
      body: html`<div class="dialog-text">${error ? refusal(error) : invitation(made, come)}</div>`,
      buttons: html`
        ${made
          ? html`<button type="button" class="button" aria-disabled=${state.busy ? 'true' : null} @click=${renew}>${t('nodes.add.renew')}</button>`
          : null}
        <button type="button" class="button primary" @click=${() => close(null)}>${t('common.close')}</button>`,
    };
  }

  /** While the password is the default one nobody can join: what to do about it stands beside. */
  function refusal(error) {
    const mustChange = error.code === 'insufficient_permissions' && app.store.state.me?.user?.must_change_password;
    if (!mustChange) return alertBox(explain(error));
    return alertBox(
      t('nodes.add.default_password'),
      html`<a class="button small" href="/settings?focus=password">${t('shell.change_password')}</a>`,
    );
  }

  return {
    button: () => html`
      <button type="button" class="button primary" aria-disabled=${asking ? 'true' : null} @click=${open}>
        ${icon('plus')}${t('nodes.add')}
      </button>`,
  };
}

/** `come`: the nodes that came since the dialog was opened. */
const invitation = ({ command, expires_at: until, hint, hint_code: code }, come) => html`
  ${hint ? note(hasText(`nodes.add.hint.${code}`) ? t(`nodes.add.hint.${code}`) : hint, null, 'warning') : null}
  <p>${t('nodes.add.text')}</p>
  ${copyBox(t('nodes.add.command'), command, { focused: true })}
  <p>${t('nodes.add.until', { time: f.hourOfDay(until) })}</p>
  <p>${t('nodes.add.then')}</p>
  <div class="arrivals" role="status">
    ${come.length ? come.map(arrival) : html`<p class="arrival"><i class="dot"></i>${t('nodes.add.waiting')}</p>`}
  </div>`;

const arrival = ({ name, status }) =>
  status === 'joining'
    ? html`<p class="arrival"><i class="dot"></i>${t('nodes.add.joining', { name })}</p>`
    : html`<p class="arrival here">${icon('check')}${t('notice.joined', { name })}</p>`;
