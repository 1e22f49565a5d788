/**
 * A conversation: what was asked and what was answered, as a value that is replaced and never changed. Pure.
 *
 *   {id, title, model, parameters, messages, created, updated}
 *   a question  {id, role: 'user', text, images: [{url, width, height}], lost: how many of its images had to make room}
 *   an answer   {id, role: 'assistant', model, name, text, reasoning, state, error, reason, stats}
 *
 * An answer's `state` is writing, done, stopped (by the person), interrupted (something is there, the rest is not) or
 * failed (nothing is there). `text` is as the model wrote it, with its thinking: `partsOf` tells them apart.
 */

const TITLE_LENGTH = 60;
const STATES = new Set(['writing', 'done', 'stopped', 'interrupted', 'failed']);
const IMAGE = /^data:image\/(?:png|jpeg);base64,/;

export const emptyConversation = ({ id, model, parameters = {}, now }) => ({
  id,
  title: '',
  model,
  parameters,
  messages: [],
  created: now,
  updated: now,
});

/** With a question at its end, and in the place of what stood behind `before`, if that is given. */
export function withQuestion(conversation, { id, text, images = [] }, now, before = null) {
  const messages = before === null ? conversation.messages : messagesBefore(conversation, before);
  return {
    ...conversation,
    title: conversation.title || titleFrom(text),
    messages: [...messages, { id, role: 'user', text, images, lost: 0 }],
    updated: now,
  };
}

/** With an answer at its end that nothing is known of yet; an answer that stood there makes room. */
export function withEmptyAnswer(conversation, { id, model, name }, now) {
  const { messages } = conversation;
  const kept = messages.at(-1)?.role === 'assistant' ? messages.slice(0, -1) : messages;
  const answer = { id, role: 'assistant', model, name, text: '', reasoning: '', state: 'writing', error: null, reason: null, stats: null };
  return { ...conversation, model, messages: [...kept, answer], updated: now };
}

/** With `changes` to its last message. */
export function withLast(conversation, changes, now) {
  const { messages } = conversation;
  return { ...conversation, messages: [...messages.slice(0, -1), { ...messages.at(-1), ...changes }], updated: now };
}

const messagesBefore = ({ messages }, id) => messages.slice(0, messages.findIndex((message) => message.id === id));

/** The first words of a text, on one line; cut between characters, not within one. */
export function titleFrom(text) {
  const line = text.trim().replace(/\s+/g, ' ');
  const characters = [...line];
  return characters.length <= TITLE_LENGTH ? line : `${characters.slice(0, TITLE_LENGTH - 1).join('').trimEnd()}…`;
}

// --- thinking ----------------------------------------------------------------------------------------

const OPENING = '<think>';
const CLOSING = '</think>';

/** {thinking, text, thinks}: what the model thought, what it says, and whether it is still at the first. */
export function partsOf({ text, reasoning, state }) {
  const writing = state === 'writing';
  const body = text.trimStart();
  if (!body.startsWith(OPENING)) {
    // It may be about to begin: nobody wants to see half of the mark.
    const unsure = writing && body.length < OPENING.length && OPENING.startsWith(body);
    return { thinking: reasoning.trim(), text: unsure ? '' : text, thinks: writing && reasoning !== '' && (unsure || body === '') };
  }
  const end = body.indexOf(CLOSING);
  const thought = body.slice(OPENING.length, end < 0 ? undefined : end).trim();
  return {
    thinking: [reasoning.trim(), thought].filter(Boolean).join('\n\n'),
    text: end < 0 ? '' : body.slice(end + CLOSING.length).trimStart(),
    thinks: writing && end < 0,
  };
}

// --- keeping -----------------------------------------------------------------------------------------

/** Without its images; how many there were is remembered. */
export const withoutImages = (conversation) => ({
  ...conversation,
  messages: conversation.messages.map((message) =>
    message.images?.length ? { ...message, images: [], lost: message.lost + message.images.length } : message,
  ),
});

export const hasImages = ({ messages }) => messages.some(({ images }) => images?.length);

/**
 * What to do, one step after the other, until there is room to keep `own`: {id, conversation}, null: forget it. Images go
 * before words, the oldest conversations first, `own` itself never.
 */
export function* makingRoom(others, own) {
  const oldestFirst = [...others].sort((a, b) => a.updated - b.updated);
  for (const each of oldestFirst) if (hasImages(each)) yield { id: each.id, conversation: withoutImages(each) };
  if (hasImages(own)) yield { id: own.id, conversation: withoutImages(own) };
  for (const each of oldestFirst) yield { id: each.id, conversation: null };
}

/** A conversation out of a storage that anybody may have written to; null where it is none. */
export function restored(value) {
  if (!isObject(value) || !isText(value.id) || !value.id || !Array.isArray(value.messages)) return null;
  const messages = value.messages.map(restoredMessage).filter(Boolean);
  if (new Set(messages.map(({ id }) => id)).size < messages.length) return null;
  return {
    id: value.id,
    title: isText(value.title) ? value.title : '',
    model: isText(value.model) ? value.model : null,
    parameters: isObject(value.parameters) ? value.parameters : {},
    messages,
    created: time(value.created),
    updated: time(value.updated),
  };
}

function restoredMessage(value) {
  if (!isObject(value) || !isText(value.id) || !isText(value.text)) return null;
  const { id, text, role } = value;
  if (role === 'user') {
    const images = Array.isArray(value.images) ? value.images.filter((image) => isObject(image) && isText(image.url) && IMAGE.test(image.url)) : [];
    return { id, role, text, images, lost: time(value.lost) };
  }
  if (role !== 'assistant') return null;
  return {
    id,
    role,
    model: isText(value.model) ? value.model : '',
    name: isText(value.name) ? value.name : '',
    text,
    reasoning: isText(value.reasoning) ? value.reasoning : '',
    state: STATES.has(value.state) ? value.state : 'done',
    error: isObject(value.error) ? value.error : null,
    reason: isText(value.reason) ? value.reason : null,
    stats: isObject(value.stats) ? value.stats : null,
  };
}

const isText = (value) => typeof value === 'string';
const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);
const time = (value) => (Number.isFinite(value) ? value : 0);
