/**
 * Dialog that adds a node: shows the command to run on another machine, and the nodes that join meanwhile.
 */

import { html } from '../../lib/html.js';
import { f, hasText, t } from '../../core/i18n.js';
import { copyBox } from '../../components/copy-button.js';
import { openDialog } from '../../components/forms/dialog.js';
import { alertBox, errorMessage, note } from '../../components/feedback.js';
import { icon } from '../../components/icons.js';

export function createAddNode(app) {
  let creating = false;

  /** Requests a join command: {invitation} or {error}. */
  async function createCommand() {
    try {
      return { invitation: await app.api.post('/api/nodes/join-tokens'), error: null };
    } catch (error) {
      return { invitation: null, error };
    }
  }

  async function open() {
    if (creating) return;
    creating = true;
    app.requestRender();
    const first = await createCommand();
    creating = false;
    app.requestRender();
    const knownIds = new Set(app.store.state.nodes?.keys());
    const newNodes = () => [...(app.store.state.nodes?.values() ?? [])].filter(({ id }) => !knownIds.has(id));
    await openDialog(
      (dialog) => view(dialog, newNodes()),
      first,
      (update) => app.store.subscribe(() => update({})),
    );
  }

  function view({ close, update, state }, newNodes) {
    const renew = async () => {
      if (state.busy) return;
      update({ busy: true });
      update({ busy: false, ...(await createCommand()) });
    };
    const { invitation, error } = state;
    return {
      title: t('nodes.add'),
      body: html`<div class="dialog-text">${
        error ? errorView(error) : commandView(invitation, newNodes)
      }</div>`,
      buttons: html`
        ${
          invitation
            ? html`<button
                  type="button"
                  class="button"
                  aria-disabled=${state.busy ? 'true' : null}
                  @click=${renew}
                >${t('nodes.add.renew')}</button>`
            : null
        }
        <button
          type="button"
          class="button primary"
          @click=${() => close(null)}
        >${t('common.close')}</button>`,
    };
  }

  /** No node can join while the default password is in use, so the error links to the password form. */
  function errorView(error) {
    const mustChange =
      error.code === 'insufficient_permissions' && app.store.state.me?.user?.must_change_password;
    if (!mustChange) return alertBox(errorMessage(error));
    return alertBox(
      t('nodes.add.default_password'),
      html`<a class="button small" href="/settings?focus=password">${t('shell.change_password')}</a>`,
    );
  }

  return {
    button: () => html`
      <button type="button" class="button primary" aria-disabled=${creating ? 'true' : null} @click=${open}>
        ${icon('plus')}${t('nodes.add')}
      </button>`,
  };
}

/** `newNodes`: nodes that have joined since the dialog was opened. */
const commandView = (
  { command, other_command: other, expires_at: until, hint, hint_code: code },
  newNodes,
) => html`
  ${
    hint
      ? note(hasText(`nodes.add.hint.${code}`) ? t(`nodes.add.hint.${code}`) : hint, null, 'warning')
      : null
  }
  <p>${t('nodes.add.text')}</p>
  ${copyBox(t('nodes.add.command'), command, { focused: true })}
  <details>
    <summary>${t(other.startsWith('llb ') ? 'nodes.add.package' : 'nodes.add.checkout')}</summary>
    ${copyBox(t('nodes.add.command.other'), other)}
  </details>
  <p>${t('nodes.add.until', { time: f.hourOfDay(until) })}</p>
  <p>${t('nodes.add.then')}</p>
  <div class="arrivals" role="status">
    ${
      newNodes.length
        ? newNodes.map(newNodeLine)
        : html`<p class="arrival"><i class="dot"></i>${t('nodes.add.waiting')}</p>`
    }
  </div>`;

const newNodeLine = ({ name, status }) =>
  status === 'joining'
    ? html`<p class="arrival"><i class="dot"></i>${t('nodes.add.joining', { name })}</p>`
    : html`<p class="arrival here">${icon('check')}${t('toast.joined', { name })}</p>`;
