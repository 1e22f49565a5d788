/** Conversations that an earlier version of the page kept in local storage, to be moved to the server. */

const KEY_PREFIX = 'llb.conversation.';

/**
 * `owner`: id of the user who is signed in. `storage`: localStorage or a stand-in of a test; null if blocked.
 */
export function createBrowserStorage(owner, storage = browserStorage()) {
  const prefix = `${KEY_PREFIX}${owner}.`;
  const keys = () =>
    storage
      ? Array.from({ length: storage.length }, (_, at) => storage.key(at)).filter((key) =>
          key?.startsWith(prefix),
        )
      : [];
  return {
    /** [{key, conversation}] in the server's form; entries that cannot be read are left where they are. */
    read: () =>
      keys().flatMap((key) => {
        const conversation = convert(parse(storage.getItem(key)));
        return conversation ? [{ key, conversation }] : [];
      }),
    remove: (key) => storage.removeItem(key),
  };
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** Conversation of the earlier version, a list of messages, in the server's form; null if it is none. */
export function convert(old) {
  if (!isConversation(old) || !old.messages.length) return null;
  const messages = old.messages.map((message, at) => {
    const { role, text, thinking = '', images = [], model = null, ended = null, error, stats } = message;
    return {
      id: `m${at}`,
      parent_id: at ? `m${at - 1}` : null,
      role,
      text,
      reasoning: thinking,
      images,
      model,
      ended,
      error: error ? { code: 'engine_failed', message: String(error).slice(0, 2000) } : null,
      stats: stats && {
        prompt_tokens: stats.promptTokens,
        cached_tokens: stats.cachedTokens,
        completion_tokens: stats.completionTokens,
        tokens_per_second: stats.tokensPerSecond,
        first_token_ms: stats.firstTokenMs,
      },
    };
  });
  const updated = new Date(old.updated).toISOString();
  return {
    id: old.id,
    title: old.title.slice(0, 200),
    settings: { system: old.system, parameters: numbersOf(old.parameters), stop: old.stop },
    leaf_id: `m${messages.length - 1}`,
    created_at: updated,
    updated_at: updated,
    messages,
  };
}

const numbersOf = (parameters) =>
  Object.fromEntries(Object.entries(parameters).filter(([, value]) => Number.isFinite(value)));

/** Entries may come from anyone with access to the storage. */
function isConversation(value) {
  return (
    typeof value?.id === 'string' &&
    /^[0-9A-Za-z-]{1,64}$/.test(value.id) &&
    typeof value.title === 'string' &&
    Number.isFinite(value.updated) &&
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

function browserStorage() {
  try {
    return globalThis.localStorage ?? null;
  } catch {
    return null;
  }
}
