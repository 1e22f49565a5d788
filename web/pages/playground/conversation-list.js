/** List of stored conversations. */

import { each, html } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { confirmDialog, openDialog } from '../../components/forms/dialog.js';
import { icon } from '../../components/icons.js';
import { titleOf } from './conversation-store.js';

/** `actions`: {create(), open(id), rename(), remove()}; the last two apply to the open conversation. */
export const conversationList = ({ conversations, current, actions }) => html`
  <section class="conversation-list" aria-label=${t('playground.conversations')}>
    <button
      type="button"
      class="button wide"
      @click=${actions.create}
    >${icon('plus')}${t('playground.new')}</button>
    ${
      conversations.length
        ? html`<ul>
          ${each(
            conversations,
            ({ id }) => id,
            (conversation) => html`
              <li class=${conversation.id === current.id ? 'current' : ''}>
                <button
                  type="button"
                  class="conversation-open"
                  aria-current=${conversation.id === current.id ? 'true' : null}
                  @click=${() => actions.open(conversation.id)}
                >
                  <span>${nameOf(conversation)}</span><small>${f.ago(conversation.updated / 1000)}</small>
                </button>
                ${
                  conversation.id === current.id
                    ? html`
                      <div class="conversation-actions">
                        <button
                          type="button"
                          class="button quiet small"
                          @click=${actions.rename}
                        >${t('playground.rename.action')}</button>
                        <button
                          type="button"
                          class="button quiet small"
                          @click=${actions.remove}
                        >${t('action.delete')}</button>
                      </div>`
                    : null
                }
              </li>`,
          )}
        </ul>`
        : html`<p class="soft">${t('playground.no_conversations')}</p>`
    }
  </section>`;

const nameOf = (conversation) => titleOf(conversation) || t('playground.untitled');

/** Resolves to the new title, or null if cancelled. */
export function askForTitle(conversation) {
  return openDialog(({ close }) => {
    const submit = (event) => {
      event.preventDefault();
      close(new FormData(event.currentTarget).get('title').trim());
    };
    return {
      title: t('playground.rename.title'),
      body: html`
        <form id="rename" @submit=${submit}>
          <label class="field">
            <span>${t('playground.rename.label')}</span>
            <input name="title" maxlength="120" autocomplete="off" value=${titleOf(conversation)} autofocus />
          </label>
        </form>`,
      buttons: html`
        <button type="button" class="button" @click=${() => close(null)}>${t('common.cancel')}</button>
        <button class="button primary" form="rename">${t('playground.rename.action')}</button>`,
    };
  });
}

/** Resolves to true if the conversation was deleted by `remove(id)`. */
export const askToDelete = (conversation, remove) =>
  confirmDialog({
    title: t('playground.delete.title'),
    body: t('playground.delete.text', { title: nameOf(conversation) }),
    action: t('action.delete'),
    perform: async () => remove(conversation.id),
  });
