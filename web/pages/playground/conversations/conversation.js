/** Conversations and messages as this page makes them. Pure but for random ids. */

const TITLE_LENGTH = 60;

export const EMPTY_SETTINGS = Object.freeze({ system: '', parameters: {}, stop: '' });

export const newId = () =>
  `${Date.now().toString(36)}-${crypto.getRandomValues(new Uint32Array(2)).join('-')}`;

/** Empty conversation; the server has it from its first message on. */
export const newConversation = (settings = EMPTY_SETTINGS) => ({
  id: newId(),
  title: '',
  preview: '',
  pinned: false,
  settings: copySettings(settings),
  leafId: null,
  messages: [],
  isStored: false,
});

export const copySettings = ({ system = '', parameters = {}, stop = '' } = {}) => ({
  system,
  parameters: { ...parameters },
  stop,
});

export const newMessage = (role, parentId, fields = {}) => ({
  id: newId(),
  parent_id: parentId,
  role,
  text: '',
  reasoning: '',
  images: [],
  files: [],
  model: null,
  ended: null,
  error: null,
  stats: null,
  created_at: new Date().toISOString(),
  ...fields,
});

/** Fields of a message that the server stores. */
export const toStored = ({
  id,
  parent_id,
  role,
  text,
  reasoning,
  images,
  files,
  model,
  ended,
  error,
  stats,
  created_at,
}) => ({ id, parent_id, role, text, reasoning, images, files, model, ended, error, stats, created_at });

/** Title: the given one, else the beginning of the first question. */
export function titleOf({ title, preview = '', messages = [] }) {
  const first = title || messages.find(({ role, text }) => role === 'user' && text)?.text || preview;
  const line = first.trim().split('\n')[0];
  // By code point, so that no character is cut in half.
  const characters = [...line];
  if (characters.length <= TITLE_LENGTH) return line;
  return `${characters.slice(0, TITLE_LENGTH).join('').trimEnd()}…`;
}
