/** Questions before something is lost, and small forms: a native `<dialog>`, which keeps the focus in and gives it back. */

import { html, render } from '../../lib/html.js';
import { t } from '../../core/i18n.js';
import { alertBox, errorMessage } from '../feedback.js';

/**
 * Ask, and do it. `body` is a template or a text, `action` the name of the acting button. With `act` the dialog stays
 * open while that runs and shows what went wrong, in the words of `explainError`. Resolves to whether it was done.
 */
export function confirmDialog({ title, body, action, perform = async () => {}, danger = true, toMessage = errorMessage }) {
  return openDialog((dialog) => {
    const { close, state } = dialog;
    const run = async () => {
      await perform();
      close(true);
    };
    return {
      title,
      body: html`<div class="dialog-text">${body}</div>${alertBox(state.problem)}`,
      buttons: html`
        <button type="button" class="button" @click=${() => close(false)} autofocus>${t('common.cancel')}</button>
        <button
          type="button"
          class="button ${danger ? 'danger' : 'primary'}"
          aria-disabled=${state.busy ? 'true' : null}
          @click=${() => attempt(dialog, run, toMessage)}
        >
          ${action}
        </button>`,
    };
  });
}

/**
 * Ask for values, and do something with them.
 *
 *   fields({update, state})   the form's fields; `state` begins as `firstState`
 *   check(form)               why its FormData cannot be sent, in words; null: it can
 *   act(form)                 what to do; when it rejects, the dialog stays open and shows what `explainError` says
 *   done(result, close)       what the dialog shows in the end, as `openDialog` takes it; without it the dialog closes
 *
 * Resolves to whether it was done.
 */
export function formDialog({ title, fields, initialState, action, check = () => null, perform, toMessage = errorMessage, resultView }) {
  const id = uniqueId('form');
  return openDialog((dialog) => {
    const { close, update, state } = dialog;
    if (state.result) return resultView(state.result, () => close(true));
    const submit = (event) => {
      event.preventDefault();
      const form = new FormData(event.currentTarget);
      const problem = check(form);
      if (problem) return update({ problem });
      return attempt(dialog, () => run(form), toMessage);
    };
    const run = async (form) => {
      const result = await perform(form);
      if (resultView) update({ busy: false, result });
      else close(true);
    };
    return {
      title,
      body: html`
        <form class="dialog-form" id=${id} @submit=${submit}>${fields({ update, state })}</form>
        ${alertBox(state.problem)}`,
      buttons: html`
        <button type="button" class="button" @click=${() => close(false)}>${t('common.cancel')}</button>
        <button class="button primary" form=${id} aria-disabled=${state.busy ? 'true' : null}>${action}</button>`,
    };
  }, initialState);
}

/** Do `work`, once at a time; the dialog stays and says why where it fails. */
async function attempt({ update, state }, work, toMessage) {
  if (state.busy) return;
  update({ busy: true, problem: null });
  try {
    await work();
  } catch (error) {
    update({ busy: false, problem: toMessage(error) });
  }
}

/**
 * Open a dialog whose content is `view({close, update, state})` → {title, body, buttons, firm}. `update(changes)` merges
 * into `state` and draws it anew. A `firm` one leaves by its own buttons only. `follow(update)` is for one that shows what
 * happens meanwhile: it is called once, and what it returns when the dialog closes. Resolves to what `close(value)` is
 * given; null when it is dismissed.
 */
export function openDialog(view, initialState = {}, subscribe = () => () => {}) {
  return new Promise((resolve) => {
    const dialog = document.createElement('dialog');
    const titleId = uniqueId('dialog');
    dialog.className = 'dialog';
    dialog.setAttribute('aria-labelledby', titleId);
    let result = null;
    let state = initialState;
    let closesExplicitly = false;
    const close = (value) => {
      result = value;
      dialog.close();
    };
    const update = (changes) => {
      state = { ...state, ...changes };
      draw();
    };
    const draw = () => {
      const { title, body, buttons, explicitClose = false } = view({ close, update, state });
      closesExplicitly = explicitClose;
      render(
        html`<h2 id=${titleId}>${title}</h2>${body}<div class="dialog-buttons">${buttons}</div>`,
        dialog,
      );
      // What had the focus is gone with the content before: the new one says where to go on.
      if (dialog.open && !dialog.contains(document.activeElement)) dialog.querySelector('[autofocus]')?.focus();
    };
    draw();
    const stop = subscribe(update);
    dialog.addEventListener('close', () => {
      stop();
      dialog.remove();
      // The browser gives the focus back to where it was; that may be gone by now, with what was asked about.
      if (document.activeElement === document.body) document.querySelector('h1[tabindex]')?.focus({ preventScroll: true });
      resolve(result);
    });
    // Browsers let a second Escape pass whatever `cancel` says; the key itself can be refused each time.
    dialog.addEventListener('keydown', (event) => closesExplicitly && event.key === 'Escape' && event.preventDefault());
    dialog.addEventListener('cancel', (event) => closesExplicitly && event.preventDefault());
    // A press beside it is how people leave a question they did not mean to ask.
    dialog.addEventListener('pointerdown', (event) => {
      if (!closesExplicitly && event.target === dialog && isOutside(dialog, event)) close(null);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Close what is open: the page below it is going to be another one. */
export function dismissDialogs() {
  for (const dialog of document.querySelectorAll('dialog[open]')) dialog.close();
}

const uniqueId = (prefix) => `${prefix}-${crypto.getRandomValues(new Uint32Array(1))[0]}`;

function isOutside(dialog, { clientX, clientY }) {
  const box = dialog.getBoundingClientRect();
  return clientX < box.left || clientX > box.right || clientY < box.top || clientY > box.bottom;
}
