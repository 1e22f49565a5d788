/** Where a message is written: text, and pictures for models that see. */

import { html } from '../../lib/html.js';
import { t } from '../../core/i18n.js';
import { alertBox } from '../../components/feedback.js';
import { icon } from '../../components/icons.js';
import { ACCEPT, ImageRefused, MAX_IMAGES, toDataUrl } from './images.js';

/**
 * `drops(draft, sees)`: what the place around it listens to, {over, drop}. `draft`: {text, images}; `changed()` after every change of it. `sees`: whether the model takes pictures. `writing`:
 * Send is Stop then. `editing`: whether an earlier question is being rewritten.
 */
export function createComposer({ onChange, send, stop, cancelEditing }) {
  let errorText = null;
  let input = null;

  async function attach(draft, files) {
    errorText = null;
    for (const file of files) {
      if (draft.images.length === MAX_IMAGES) {
        errorText = t('playground.images_enough', { count: MAX_IMAGES });
        break;
      }
      try {
        draft.images.push(await toDataUrl(file));
      } catch (error) {
        if (!(error instanceof ImageRefused)) throw error;
        errorText = t('playground.image_refused', { name: error.message });
      }
    }
    onChange();
  }

  /** Files that were pasted or dropped. Left to itself, a browser would open them in the place of the page. */
  function attachFromTransfer(event, draft, { files }, supportsImages) {
    if (!files.length) return;
    event.preventDefault();
    if (supportsImages) return attach(draft, [...files]);
    errorText = t('playground.images_unseen');
    onChange();
  }

  const dropHandlers = (draft, supportsImages) => ({
    over: (event) => event.dataTransfer.types.includes('Files') && event.preventDefault(),
    drop: (event) => attachFromTransfer(event, draft, event.dataTransfer, supportsImages),
  });

  const view = ({ draft, supportsImages, can, writing, editing }) => {
    const submit = (event) => {
      event.preventDefault();
      if (writing) return;
      errorText = null;
      if (can && (draft.text.trim() || draft.images.length)) send();
    };
    // The second press of a double click on Send means no Stop.
    const clickSend = (event) => {
      if (!writing) return;
      event.preventDefault();
      if (event.detail < 2) stop();
    };
    const keydown = (event) => {
      // While an input method is open, Enter chooses its word. Safari ends the composition before the key is told.
      if (event.isComposing || event.keyCode === 229) return;
      if (event.key === 'Enter' && !event.shiftKey) {
        event.preventDefault();
        submit(event);
      }
    };
    return html`
      <form class="composer" @submit=${submit}>
        ${editing
          ? html`<div class="composer-note">
              <p>${t('playground.editing')}</p>
              <button type="button" class="button quiet small" @click=${cancelEditing}>${t('common.cancel')}</button>
            </div>`
          : null}
        ${alertBox(errorText)}
        ${draft.images.length ? thumbnails(draft, onChange) : null}
        <div class="composer-row">
          ${supportsImages
            ? html`<label class="button quiet square attach" title=${t('playground.attach')}>
                ${icon('image')}<span class="sr-only">${t('playground.attach')}</span>
                <input
                  class="sr-only"
                  type="file"
                  accept=${ACCEPT}
                  multiple
                  @change=${({ currentTarget }) => {
                    attach(draft, [...currentTarget.files]);
                    currentTarget.value = '';
                  }}
                />
              </label>`
            : null}
          <textarea
            rows="1"
            aria-label=${t('playground.message')}
            placeholder=${t(can ? 'playground.placeholder' : 'playground.placeholder_no_model')}
            autocomplete="off"
            .value=${draft.text}
            ref=${(element) => {
              input = element;
            }}
            @input=${(event) => {
              draft.text = event.target.value;
              errorText = null;
              onChange();
            }}
            @keydown=${keydown}
            @paste=${(event) => event.clipboardData.types.includes('text/plain') || attachFromTransfer(event, draft, event.clipboardData, supportsImages)}
          ></textarea>
          <button class="button primary square send ${writing ? 'stop' : ''}" aria-disabled=${writing || can ? null : 'true'} @click=${clickSend}>
            ${icon(writing ? 'stop' : 'send')}<span>${t(writing ? 'playground.stop' : 'playground.send')}</span>
          </button>
        </div>
      </form>`;
  };

  return { view, dropHandlers, focus: () => input?.focus() };
}

const thumbnails = (draft, onChange) => html`
  <ul class="thumbs">
    ${draft.images.map(
      (url, at) => html`
        <li>
          <img src=${url} alt=${t('playground.image', { number: at + 1 })} />
          <button
            type="button"
            class="button square small"
            aria-label=${t('playground.remove_image', { number: at + 1 })}
            @click=${() => {
              draft.images.splice(at, 1);
              onChange();
            }}
          >
            ${icon('close')}
          </button>
        </li>`,
    )}
  </ul>`;
