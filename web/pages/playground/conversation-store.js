/**
 * Conversation store in local storage. One entry per conversation, so that two tabs do not overwrite each
 * other's.
 */

const KEY_PREFIX = 'llb.conversation.';
const TITLE_LENGTH = 60;

/**
 * `owner`: id of the signed-in user; users sharing a browser do not see each other's conversations.
 * `storage`: localStorage or a stand-in of a test; null if blocked.
 */
export function createConversationStore(owner, storage = browserStorage()) {
  const prefix = `${KEY_PREFIX}${owner}.`;

  const load = (key) => {
    try {
      const found = JSON.parse(storage.getItem(key));
      return isConversation(found) && prefix + found.id === key ? found : null;
    } catch {
      return null;
    }
  };

  const keys = () =>
    storage
      ? Array.from({ length: storage.length }, (_, at) => storage.key(at)).filter((key) =>
          key?.startsWith(prefix),
        )
      : [];

  /** Newest first. */
  const all = () =>
    keys()
      .map(load)
      .filter(Boolean)
      .sort((a, b) => b.updated - a.updated);

  function write(conversation) {
    try {
      storage.setItem(prefix + conversation.id, JSON.stringify(conversation));
      return true;
    } catch {
      return false;
    }
  }

  /**
   * Returns false if it could not be stored. When storage is full, images are dropped first (its own last),
   * then the oldest conversations.
   */
  function save(conversation) {
    if (!storage) return false;
    if (write(conversation)) return true;
    const others = all()
      .filter(({ id }) => id !== conversation.id)
      .reverse();
    for (const old of others.filter(hasImages)) {
      write(withoutImages(old));
      if (write(conversation)) return true;
    }
    const lighter = withoutImages(conversation);
    if (write(lighter)) return true;
    for (const old of others) {
      remove(old.id);
      if (write(lighter)) return true;
    }
    return false;
  }

  const remove = (id) => storage?.removeItem(prefix + id);

  return {
    all,
    save,
    remove,
    get: (id) => load(prefix + id),
    owns: (key) => key === null || key.startsWith(prefix),
  };
}

/** Empty conversation; it is stored from its first message on. */
export const newConversation = (now = Date.now(), settings = {}) => ({
  id: `${now.toString(36)}-${crypto.getRandomValues(new Uint32Array(1))[0].toString(36)}`,
  title: '',
  updated: now,
  system: '',
  parameters: {},
  stop: '',
  ...settings,
  messages: [],
});

/** Title: the given one, else the beginning of the first question. */
export function titleOf({ title, messages }) {
  const first = title || messages.find(({ role, text }) => role === 'user' && text)?.text || '';
  const line = first.trim().split('\n')[0];
  // By code point, so that no character is cut in half.
  const characters = [...line];
  return characters.length > TITLE_LENGTH ? `${characters.slice(0, TITLE_LENGTH).join('').trimEnd()}…` : line;
}

/** Entries may come from another version of the page, or from anyone with access to the storage. */
function isConversation(value) {
  return (
    typeof value?.id === 'string' &&
    typeof value.title === 'string' &&
    typeof value.updated === 'number' &&
    typeof value.system === 'string' &&
    typeof value.stop === 'string' &&
    typeof value.parameters === 'object' &&
    value.parameters !== null &&
    Array.isArray(value.messages) &&
    value.messages.every(
      (message) =>
        ['user', 'assistant'].includes(message?.role) &&
        typeof message.text === 'string' &&
        (message.images === undefined || (Array.isArray(message.images) && message.images.every(isImage))),
    )
  );
}

const isImage = (url) => typeof url === 'string' && /^data:image\/(?:png|jpeg|webp|gif);base64,/.test(url);

const hasImages = ({ messages }) => messages.some(({ images }) => images?.length);

const withoutImages = (conversation) => ({
  ...conversation,
  messages: conversation.messages.map(({ images, ...message }) => message),
});

function browserStorage() {
  try {
    return globalThis.localStorage ?? null;
  } catch {
    return null;
  }
}
