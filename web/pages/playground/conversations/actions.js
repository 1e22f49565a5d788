/** Actions of the list of conversations: rename, delete, export and import, each with its dialog. */

import { t } from '../../../core/i18n.js';
import { errorMessage } from '../../../components/feedback.js';
import { download } from '../../../lib/download.js';
import { askForTitle, askToDelete } from './dialogs.js';
import { asJson, asMarkdown, fileName, fromJson } from './transfer.js';

/** `menu`: {id} of the conversation whose menu is open. */
export function listActions(app, chat, menu) {
  const fail = (error) => app.showToast({ kind: 'error', text: errorMessage(error) });
  const close = () => {
    menu.id = null;
    app.requestRender();
  };
  return {
    toggleMenu(id) {
      menu.id = menu.id === id ? null : id;
      app.requestRender();
    },
    search: (text) => chat.search(text),
    async rename(summary) {
      const name = await askForTitle(summary);
      if (name !== null) await chat.rename(summary.id, name);
      close();
    },
    async pin(summary) {
      await chat.pin(summary.id, !summary.pinned);
      close();
    },
    async remove(summary) {
      await askToDelete(summary, chat.remove);
      close();
    },
    async exportOne(summary, format) {
      close();
      try {
        const found = await chat.client.get(summary.id);
        const titled = { ...found, title: found.title || summary.preview };
        if (format === 'json') download(fileName(titled, 'json'), asJson([found]), 'application/json');
        else {
          const names = { user: t('playground.you'), assistant: t('playground.assistant') };
          download(fileName(titled, 'md'), asMarkdown(found, names), 'text/markdown');
        }
      } catch (error) {
        fail(error);
      }
    },
    async exportAll() {
      try {
        const { conversations } = await chat.client.list('');
        const found = [];
        for (const { id } of conversations) found.push(await chat.client.get(id));
        download('llb-conversations.json', asJson(found), 'application/json');
      } catch (error) {
        fail(error);
      }
    },
    async importFile(file) {
      let conversations;
      try {
        conversations = fromJson(await file.text());
      } catch {
        return app.showToast({ kind: 'error', text: t('playground.import.refused', { name: file.name }) });
      }
      try {
        const added = await chat.importAll(conversations);
        app.showToast({
          kind: 'info',
          text: t('playground.imported', { count: added.conversations, messages: added.messages }),
        });
      } catch (error) {
        fail(error);
      }
    },
  };
}
