/** Dialogs of conversations. */

import { html } from '../../../lib/html.js';
import { t } from '../../../core/i18n.js';
import { confirmDialog, openDialog } from '../../../components/forms/dialog.js';
import { titleOf } from './conversation.js';
import { nameOf } from './list.js';

/** Resolves to the new text, or null if cancelled. `label` and `value` are those of the field. */
export function askForName({ title, label, action, value, maxLength }) {
  return openDialog(({ close }) => {
    const submit = (event) => {
      event.preventDefault();
      close(new FormData(event.currentTarget).get('name').trim());
    };
    return {
      title,
      body: html`
        <form id="name-form" @submit=${submit}>
          <label class="field">
            <span>${label}</span>
            <input name="name" maxlength=${maxLength} autocomplete="off" value=${value} autofocus />
          </label>
        </form>`,
      buttons: html`
        <button type="button" class="button" @click=${() => close(null)}>${t('common.cancel')}</button>
        <button class="button primary" form="name-form">${action}</button>`,
    };
  });
}

export const askForTitle = (conversation) =>
  askForName({
    title: t('playground.rename.title'),
    label: t('playground.rename.label'),
    action: t('playground.rename.action'),
    value: titleOf(conversation),
    maxLength: 120,
  });

/** Resolves to true if the conversation was deleted by `remove(id)`. */
export const askToDelete = (conversation, remove) =>
  confirmDialog({
    title: t('playground.delete.title'),
    body: t('playground.delete.text', { title: nameOf(conversation) }),
    action: t('action.delete'),
    perform: () => remove(conversation.id),
  });

/** Resolves to true if the message was deleted by `remove()`. */
export const askToDeleteMessage = (remove) =>
  confirmDialog({
    title: t('playground.delete_message.title'),
    body: t('playground.delete_message.text'),
    action: t('action.delete'),
    perform: remove,
  });
