/** Button that copies text to the clipboard and confirms it. */

import { html } from '../lib/html.js';
import { t } from '../core/i18n.js';
import { icon } from './icons.js';

const FEEDBACK_MS = 2000;

/** `text`: the text, or a function that returns it on demand. `label`: name of the button. */
export const copyButton = (text, label = t('common.copy')) => html`
  <button
    type="button"
    class="button quiet small copy"
    title=${label}
    @click=${(event) => copy(event.currentTarget, text)}
  >
    ${icon('copy')}<span class="copy-label">${label}</span>
    <span class="copy-status" aria-live="polite"></span>
  </button>`;

/**
 * Box with a text to copy and its button. `label` is its accessible name; with `focused` a dialog puts the
 * initial focus on it.
 */
export const copyBox = (label, text, { focused = false } = {}) => html`
  <div
    class="copy-box"
    role="group"
    aria-label=${label}
    tabindex=${focused ? '-1' : null}
    ?autofocus=${focused}
  >
    <code>${breakableText(text)}</code>${copyButton(text)}
  </div>`;

/** Code that scrolls sideways where it is too wide, with its button. `label` is its accessible name. */
export const codeBox = (label, text) => html`
  <div class="code-box">
    <pre tabindex="0" role="region" aria-label=${label}><code>${text}</code></pre>
    ${copyButton(text)}
  </div>`;

/** Breaks lines between words only, not at the dashes of a flag. */
const breakableText = (text) =>
  text.split(' ').flatMap((word, at) => [at ? ' ' : null, html`<span class="copy-word">${word}</span>`]);

async function copy(button, text) {
  const status = button.querySelector('.copy-status');
  const copied = await write(typeof text === 'function' ? text() : text);
  status.textContent = t(copied ? 'common.copied' : 'common.copy_failed');
  button.classList.add('done');
  setTimeout(() => {
    button.classList.remove('done');
    status.textContent = '';
  }, FEEDBACK_MS);
}

async function write(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return writeWithExecCommand(text);
  }
}

/**
 * Fallback for plain HTTP: the clipboard API exists only on HTTPS and localhost, but many reach llb at an
 * address such as http://attic:8080.
 */
function writeWithExecCommand(text) {
  const area = document.createElement('textarea');
  area.value = text;
  area.className = 'sr-only';
  // While a dialog is open, elements outside it cannot receive focus.
  (document.querySelector('dialog[open]') ?? document.body).append(area);
  area.select();
  const copied = document.execCommand('copy');
  area.remove();
  return copied;
}
