/**
 * Confirmation dialogs and small forms, as native `<dialog>` elements, which trap the focus and restore it.
 */

import { html, render } from '../../lib/html.js';
import { t } from '../../core/i18n.js';
import { alertBox, errorMessage } from '../feedback.js';

/**
 * Confirmation dialog. `body` is a template or a text, `action` the label of the confirm button. While
 * `perform` runs the dialog stays open, and shows the error as `toMessage` puts it. Resolves to true if the
 * action was performed.
 */
export function confirmDialog({
  title,
  body,
  action,
  perform = async () => {},
  danger = true,
  toMessage = errorMessage,
}) {
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
        <button
          type="button"
          class="button"
          @click=${() => close(false)}
          autofocus
        >${t('common.cancel')}</button>
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
 * Form dialog.
 *
 *   fields({update, state})     the form's fields; `state` starts as `initialState`
 *   check(form)                 validation message for its FormData, or null
 *   perform(form)               the action; if it rejects, the dialog stays open and shows `toMessage(error)`
 *   resultView(result, close)   content after success, as for `openDialog`; by default the dialog closes
 *
 * Resolves to true if the action was performed.
 */
export function formDialog({
  title,
  fields,
  initialState,
  action,
  check = () => null,
  perform,
  toMessage = errorMessage,
  resultView,
}) {
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
        <button
          class="button primary"
          form=${id}
          aria-disabled=${state.busy ? 'true' : null}
        >${action}</button>`,
    };
  }, initialState);
}

/** Runs `work` unless it is already running. On failure the dialog stays open and shows the error. */
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
 * Opens a dialog with the content `view({close, update, state})` → {title, body, buttons, explicitClose}.
 * `update(changes)` merges into `state` and renders again. With `explicitClose` only the dialog's own buttons
 * close it. `subscribe(update)` is called once; the function it returns is called on close. Resolves to the
 * value given to `close(value)`, or to null if dismissed.
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
      // The focused element was replaced with the content: move the focus to the new one.
      if (dialog.open && !dialog.contains(document.activeElement))
        dialog.querySelector('[autofocus]')?.focus();
    };
    draw();
    const stop = subscribe(update);
    dialog.addEventListener('close', () => {
      stop();
      dialog.remove();
      // The browser restores the focus, but the element may be gone together with the deleted item.
      if (document.activeElement === document.body)
        document.querySelector('h1[tabindex]')?.focus({ preventScroll: true });
      resolve(result);
    });
    // Browsers ignore a prevented `cancel` on the second Escape, so the key itself is blocked.
    dialog.addEventListener(
      'keydown',
      (event) => closesExplicitly && event.key === 'Escape' && event.preventDefault(),
    );
    dialog.addEventListener('cancel', (event) => closesExplicitly && event.preventDefault());
    // Clicking the backdrop dismisses the dialog.
    dialog.addEventListener('pointerdown', (event) => {
      if (!closesExplicitly && event.target === dialog && isOutside(dialog, event)) close(null);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Closes all open dialogs before another page is shown. */
export function dismissDialogs() {
  for (const dialog of document.querySelectorAll('dialog[open]')) dialog.close();
}

const uniqueId = (prefix) => `${prefix}-${crypto.getRandomValues(new Uint32Array(1))[0]}`;

function isOutside(dialog, { clientX, clientY }) {
  const box = dialog.getBoundingClientRect();
  return clientX < box.left || clientX > box.right || clientY < box.top || clientY > box.bottom;
}
