/** Composer: text input, images for vision models, and text files. */

import { html } from '../../../lib/html.js';
import { t } from '../../../core/i18n.js';
import { alertBox } from '../../../components/feedback.js';
import { icon } from '../../../components/icons.js';
import { ACCEPT_TEXT, attachFile } from './attachments.js';
import { ACCEPT } from './images.js';

/**
 *   draft            {text, images, files}
 *   supportsImages   whether the model accepts images
 *   writing          an answer is being generated: Send becomes Stop
 *   editing          whether an earlier question is being edited
 *   meter            view of the context that is used
 *   name             of the model, for the placeholder
 *
 * `onInput()` is called after every key and does not render; `onChange()` after other changes.
 */
export function createComposer({ onInput, onChange, send, stop, cancelEditing, editLast }) {
  let errorText = null;
  let input = null;

  async function attach(draft, files, supportsImages) {
    errorText = null;
    for (const file of files) {
      const refused = await attachFile(draft, file, supportsImages);
      if (refused) errorText = t(...refused);
    }
    onChange();
  }

  /** Attaches pasted or dropped files. By default a browser would open them instead of the page. */
  function attachFromTransfer(event, draft, { files }, supportsImages) {
    if (!files.length) return;
    event.preventDefault();
    attach(draft, [...files], supportsImages);
  }

  const dropHandlers = (draft, supportsImages) => ({
    over: (event) => event.dataTransfer.types.includes('Files') && event.preventDefault(),
    drop: (event) => attachFromTransfer(event, draft, event.dataTransfer, supportsImages),
  });

  const view = ({ draft, supportsImages, can, writing, editing, meter, name }) => {
    const submit = (event) => {
      event.preventDefault();
      if (writing) return;
      errorText = null;
      if (can && (draft.text.trim() || draft.images.length || draft.files.length)) send();
    };
    // The second click of a double click on Send must not stop the answer.
    const clickSend = (event) => {
      if (!writing) return;
      event.preventDefault();
      if (event.detail < 2) stop();
    };
    const keydown = (event) => {
      // While an input method is composing, Enter selects a word. Safari ends the composition before it sends
      // the key event.
      if (event.isComposing || event.keyCode === 229) return;
      if (event.key === 'Enter' && !event.shiftKey) {
        event.preventDefault();
        submit(event);
      } else if (event.key === 'ArrowUp' && !draft.text && !editing && !writing) {
        if (editLast()) event.preventDefault();
      }
    };
    return html`
      <form class="composer" @submit=${submit}>
        ${
          editing
            ? html`<div class="composer-note">
              <p>${t('playground.editing')}</p>
              <button
                type="button"
                class="button quiet small"
                @click=${cancelEditing}
              >${t('common.cancel')}</button>
            </div>`
            : null
        }
        ${alertBox(errorText)}
        <div class="composer-box">
          ${draft.images.length ? thumbnails(draft, onChange) : null}
          ${draft.files.length ? fileList(draft, onChange) : null}
          <textarea
            rows="1"
            aria-label=${t('playground.message')}
            placeholder=${can ? t('playground.placeholder', { name }) : t('playground.placeholder_no_model')}
            autocomplete="off"
            .value=${draft.text}
            ref=${(element) => {
              input = element;
            }}
            @input=${(event) => {
              draft.text = event.target.value;
              if (errorText) {
                errorText = null;
                onChange();
              }
              onInput();
            }}
            @keydown=${keydown}
            @paste=${(event) =>
              event.clipboardData.types.includes('text/plain') ||
              attachFromTransfer(event, draft, event.clipboardData, supportsImages)}
          ></textarea>
          <div class="composer-row">
            ${
              supportsImages
                ? chooser('playground.attach', 'image', ACCEPT, (files) => attach(draft, files, true))
                : null
            }
            ${chooser('playground.attach_files', 'file', ACCEPT_TEXT, (files) =>
              attach(draft, files, supportsImages),
            )}
            ${meter}
            <button
              class="button primary send ${writing ? 'stop' : ''}"
              aria-disabled=${writing || can ? null : 'true'}
              @click=${clickSend}
            >
              ${icon(writing ? 'stop' : 'send')}<span>${t(
                writing ? 'playground.stop' : 'playground.send',
              )}</span>
            </button>
          </div>
        </div>
      </form>`;
  };

  /** Returns whether the input is there. */
  function focus() {
    input?.focus();
    return Boolean(input);
  }

  return { view, dropHandlers, focus };
}

const chooser = (key, iconName, accept, choose) => html`
  <label class="button quiet square attach" title=${t(key)}>
    ${icon(iconName)}<span class="sr-only">${t(key)}</span>
    <input
      class="sr-only"
      type="file"
      accept=${accept}
      multiple
      @change=${({ currentTarget }) => {
        choose([...currentTarget.files]);
        currentTarget.value = '';
      }}
    />
  </label>`;

const removeButton = (list, at, label, onChange) => html`
  <button
    type="button"
    class="button square small"
    aria-label=${label}
    @click=${() => {
      list.splice(at, 1);
      onChange();
    }}
  >
    ${icon('close')}
  </button>`;

const thumbnails = (draft, onChange) => html`
  <ul class="thumbs">
    ${draft.images.map(
      (url, at) => html`
        <li>
          <img src=${url} alt=${t('playground.image', { number: at + 1 })} />
          ${removeButton(draft.images, at, t('playground.remove_image', { number: at + 1 }), onChange)}
        </li>`,
    )}
  </ul>`;

const fileList = (draft, onChange) => html`
  <ul class="attached-files">
    ${draft.files.map(
      ({ name }, at) => html`
        <li class="attached-file">
          ${icon('file')}<span>${name}</span>
          ${removeButton(draft.files, at, t('playground.remove_file', { name }), onChange)}
        </li>`,
    )}
  </ul>`;
