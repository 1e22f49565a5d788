/** Composer: text input, and images for vision models. */

import { html } from '../../lib/html.js';
import { t } from '../../core/i18n.js';
import { alertBox } from '../../components/feedback.js';
import { icon } from '../../components/icons.js';
import { ACCEPT, ImageRefused, MAX_IMAGES, toDataUrl } from './images.js';

/**
 *   dropHandlers(draft, supportsImages)   {over, drop} for the element that accepts dropped files
 *   draft                                 {text, images}; `onChange()` is called after every change
 *   supportsImages                        whether the model accepts images
 *   writing                               a response is being generated: Send becomes Stop
 *   editing                               whether an earlier question is being edited
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

  /** Attaches pasted or dropped files. By default a browser would open them instead of the page. */
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
    // The second click of a double click on Send must not stop the response.
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
        ${draft.images.length ? thumbnails(draft, onChange) : null}
        <div class="composer-row">
          ${
            supportsImages
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
              : null
          }
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
            @paste=${(event) =>
              event.clipboardData.types.includes('text/plain') ||
              attachFromTransfer(event, draft, event.clipboardData, supportsImages)}
          ></textarea>
          <button
            class="button primary square send ${writing ? 'stop' : ''}"
            aria-disabled=${writing || can ? null : 'true'}
            @click=${clickSend}
          >
            ${icon(writing ? 'stop' : 'send')}<span>${t(
              writing ? 'playground.stop' : 'playground.send',
            )}</span>
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
