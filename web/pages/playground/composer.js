/** Where a message is written: text, and pictures for models that see. */

import { html } from '../../lib/html.js';
import { t } from '../../core/i18n.js';
import { alertBox } from '../../components/feedback.js';
import { icon } from '../../components/icons.js';
import { ACCEPT, ImageRefused, imagesOf, toDataUrl } from './images.js';

/**
 * `draft`: {text, images}; `changed()` after every change of it. `sees`: whether the model takes pictures. `writing`:
 * Send is Stop then. `editing`: whether an earlier question is being rewritten.
 */
export function makeComposer({ changed, send, stop, leaveEditing }) {
  let problem = null;
  let input = null;

  async function attach(draft, files) {
    problem = null;
    for (const file of files) {
      try {
        draft.images.push(await toDataUrl(file));
      } catch (error) {
        if (!(error instanceof ImageRefused)) throw error;
        problem = t('playground.image_refused', { name: error.message });
      }
    }
    changed();
  }

  function take(event, draft, transfer, sees) {
    const files = sees ? imagesOf(transfer) : [];
    if (!files.length) return;
    event.preventDefault();
    attach(draft, files);
  }

  const view = ({ draft, sees, can, writing, editing }) => {
    const submit = (event) => {
      event.preventDefault();
      if (writing) stop();
      else if (can && (draft.text.trim() || draft.images.length)) send();
    };
    const keydown = (event) => {
      // While an input method is open, Enter chooses its word. Safari ends the composition before the key is told.
      if (event.isComposing || event.keyCode === 229) return;
      if (event.key === 'Escape' && writing) stop();
      else if (event.key === 'Enter' && !event.shiftKey) {
        event.preventDefault();
        if (!writing) submit(event);
      }
    };
    return html`
      <form class="composer" @submit=${submit} @dragover=${(event) => sees && event.preventDefault()}
        @drop=${(event) => take(event, draft, event.dataTransfer, sees)}>
        ${editing
          ? html`<div class="composer-note">
              <p>${t('playground.editing')}</p>
              <button type="button" class="button quiet small" @click=${leaveEditing}>${t('common.cancel')}</button>
            </div>`
          : null}
        ${alertBox(problem)}
        ${draft.images.length ? thumbs(draft, changed) : null}
        <div class="composer-row">
          ${sees
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
              changed();
            }}
            @keydown=${keydown}
            @paste=${(event) => take(event, draft, event.clipboardData, sees)}
          ></textarea>
          <button class="button primary square send ${writing ? 'stop' : ''}" aria-disabled=${writing || can ? null : 'true'}>
            ${icon(writing ? 'stop' : 'send')}<span>${t(writing ? 'playground.stop' : 'playground.send')}</span>
          </button>
        </div>
      </form>`;
  };

  return { view, focus: () => input?.focus() };
}

const thumbs = (draft, changed) => html`
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
              changed();
            }}
          >
            ${icon('close')}
          </button>
        </li>`,
    )}
  </ul>`;
