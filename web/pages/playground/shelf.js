/**
 * Where this browser keeps a person's conversations: one key each, so that two windows do not overwrite each other's,
 * and beside them what was typed and not sent.
 */

import { recall, remember } from '../../core/settings.js';
import { makingRoom, restored } from './conversation.js';

const PREFIX = 'llb.'; // as core/settings.js writes it

/** `owner`: the id of who is signed in; people who share a browser do not share conversations. */
export function makeShelf(owner) {
  const conversations = `conversations.${owner}.`;
  const drafts = `drafts.${owner}.`;

  const read = (id) => {
    const found = restored(recall(conversations + id));
    return found?.id === id ? found : null;
  };

  const ids = () => {
    try {
      return Object.keys(localStorage).map(idOf).filter((id) => id !== null);
    } catch {
      return []; // a browser that forbids storage
    }
  };

  /** The id of the conversation that a storage key stands for, null for any other key. */
  const idOf = (key) => (key?.startsWith(PREFIX + conversations) ? key.slice((PREFIX + conversations).length) : null);

  return {
    idOf,
    read,
    all: () => ids().map(read).filter(Boolean),

    /**
     * Keep a conversation, at the cost of older ones where there is no room.
     * Returns {kept, given}: `given` is [{id, conversation}] of what was given up for it, as `makingRoom` says.
     */
    keep(own) {
      const given = [];
      if (remember(conversations + own.id, own)) return { kept: true, given };
      let wanted = own;
      const others = ids().filter((id) => id !== own.id).map(read).filter(Boolean);
      for (const step of makingRoom(others, own)) {
        if (step.id === own.id) wanted = step.conversation;
        else remember(conversations + step.id, step.conversation);
        given.push(step);
        if (remember(conversations + own.id, wanted)) return { kept: true, given };
      }
      return { kept: false, given };
    },

    forget(id) {
      remember(conversations + id, null);
      remember(drafts + id, null);
    },

    /** What was typed and not sent: {text, parameters}; `id` null: where no conversation is yet, which has parameters, too. */
    draft(id) {
      const found = recall(drafts + (id ?? 'new'));
      return {
        text: typeof found?.text === 'string' ? found.text : '',
        parameters: typeof found?.parameters === 'object' && found.parameters !== null ? found.parameters : {},
      };
    },
    keepDraft(id, { text, parameters = {} }) {
      const empty = text === '' && !Object.keys(parameters).length;
      remember(drafts + (id ?? 'new'), empty ? null : { text, parameters });
    },
  };
}
