/** Questions before something is lost: a native `<dialog>`, which keeps the focus in and gives it back. */

import { html, render } from '../lib/html.js';
import { t } from '../core/i18n.js';
import { alertBox, explain } from './feedback.js';

/**
 * Ask, and do it. `body` is a template or a text, `action` the name of the acting button. With `act` the dialog stays
 * open while that runs and shows what went wrong. Resolves to whether it was done.
 */
export function confirmDialog({ title, body, action, act = async () => {}, danger = true }) {
  return openDialog(({ close, update, state }) => {
    const perform = async () => {
      if (state.busy) return;
      update({ busy: true, error: null });
      try {
        await act();
        close(true);
      } catch (error) {
        update({ busy: false, error });
      }
    };
    return {
      title,
      body: html`<div class="dialog-text">${body}</div>${alertBox(state.error && explain(state.error))}`,
      buttons: html`
        <button type="button" class="button" @click=${() => close(false)} autofocus>${t('common.cancel')}</button>
        <button type="button" class="button ${danger ? 'danger' : 'primary'}" aria-disabled=${state.busy ? 'true' : null} @click=${perform}>
          ${action}
        </button>`,
    };
  });
}

/**
 * Open a dialog whose content is `view({close, update, state})` → {title, body, buttons}. `update(changes)` merges into
 * `state` and draws it anew. Resolves to what `close(value)` is given; null when it is dismissed.
 */
export function openDialog(view, firstState = {}) {
  return new Promise((resolve) => {
    const dialog = document.createElement('dialog');
    const titleId = `dialog-${crypto.getRandomValues(new Uint32Array(1))[0]}`;
    dialog.className = 'dialog';
    dialog.setAttribute('aria-labelledby', titleId);
    let result = null;
    let state = firstState;
    const close = (value) => {
      result = value;
      dialog.close();
    };
    const update = (changes) => {
      state = { ...state, ...changes };
      draw();
    };
    const draw = () => {
      const { title, body, buttons } = view({ close, update, state });
      render(
        html`<h2 id=${titleId}>${title}</h2>${body}<div class="dialog-buttons">${buttons}</div>`,
        dialog,
      );
    };
    draw();
    dialog.addEventListener('close', () => {
      dialog.remove();
      resolve(result);
    });
    // A press beside it is how people leave a question they did not mean to ask.
    dialog.addEventListener('pointerdown', (event) => event.target === dialog && outside(dialog, event) && close(null));
    document.body.append(dialog);
    dialog.showModal();
  });
}

function outside(dialog, { clientX, clientY }) {
  const box = dialog.getBoundingClientRect();
  return clientX < box.left || clientX > box.right || clientY < box.top || clientY > box.bottom;
}
