/** Keyboard shortcuts of the Playground, and the dialog that lists them. */

import { html } from '../../lib/html.js';
import { t } from '../../core/i18n.js';
import { openDialog } from '../../components/forms/dialog.js';

const SHORTCUTS = [
  ['/', 'search'],
  ['Ctrl K', 'search'],
  ['Ctrl Shift O', 'new'],
  ['↑', 'edit'],
  ['Enter', 'send'],
  ['Shift Enter', 'newline'],
  ['Esc', 'stop'],
  ['?', 'help'],
];

const isTyping = ({ target }) =>
  target instanceof Element && target.closest('input, textarea, select, [contenteditable]') !== null;

/** Handles a key event outside of dialogs with one of {search, create, help, escape}. */
export function handleShortcut(event, actions) {
  if (event.isComposing || event.defaultPrevented || document.querySelector('dialog[open]')) return;
  const { key, shiftKey, altKey } = event;
  const command = event.ctrlKey || event.metaKey;
  const action =
    command && !shiftKey && !altKey && key.toLowerCase() === 'k'
      ? actions.search
      : command && shiftKey && !altKey && key.toLowerCase() === 'o'
        ? actions.create
        : key === 'Escape'
          ? actions.escape
          : command || altKey || isTyping(event)
            ? null
            : ({ '/': actions.search, '?': actions.help }[key] ?? null);
  if (!action) return;
  event.preventDefault();
  action();
}

export const showShortcuts = () =>
  openDialog(({ close }) => ({
    title: t('playground.shortcuts'),
    body: html`
      <dl class="shortcuts">
        ${SHORTCUTS.map(
          ([keys, name]) => html`
            <div>
              <dt>${keys.split(' ').map((key) => html`<kbd>${key}</kbd>`)}</dt>
              <dd>${t(`playground.shortcut.${name}`)}</dd>
            </div>`,
        )}
      </dl>`,
    buttons: html`<button type="button" class="button" autofocus @click=${() => close()}>${t(
      'common.close',
    )}</button>`,
  }));
