/** What is sent to /v1/chat/completions for a conversation. Pure. */

import { partsOf } from './conversation.js';

/** The numbers that steer an answer, in the order in which they are shown; empty ones are the model's own business. */
export const NUMBERS = [
  { name: 'temperature', least: 0, most: 2, step: 0.1 },
  { name: 'top_p', least: 0, most: 1, step: 0.05 },
  { name: 'top_k', least: 0, most: 1000, step: 1 },
  { name: 'min_p', least: 0, most: 1, step: 0.01 },
  { name: 'max_tokens', least: 1, most: 1_000_000, step: 1 },
  { name: 'seed', least: 0, most: 4_294_967_295, step: 1 },
  { name: 'presence_penalty', least: -2, most: 2, step: 0.1 },
  { name: 'frequency_penalty', least: -2, most: 2, step: 0.1 },
];

const MOST_STOPS = 8;

/** The number that a person typed: null where nothing stands there, undefined where it is not one that can be sent. */
export function numberFrom(text, { least, most, step }) {
  if (text.trim() === '') return null;
  const value = Number(text);
  const whole = step !== 1 || Number.isInteger(value);
  return Number.isFinite(value) && whole && value >= least && value <= most ? value : undefined;
}

/** The fields of a request that `parameters` stand for; only those that were set, and can be sent. */
export function fieldsOf(parameters) {
  const fields = {};
  for (const number of NUMBERS) {
    const value = parameters[number.name];
    if (typeof value === 'number' && numberFrom(String(value), number) === value) fields[number.name] = value;
  }
  const stops = stopsFrom(parameters.stop);
  if (stops.length) fields.stop = stops;
  if (parameters.json === true) fields.response_format = { type: 'json_object' };
  return fields;
}

/** One stop sequence a line; `\n` in it stands for a line's end. */
export const stopsFrom = (text) =>
  typeof text === 'string'
    ? text
        .split('\n')
        .filter(Boolean)
        .slice(0, MOST_STOPS)
        .map((line) => line.replaceAll('\\n', '\n'))
    : [];

/** How many parameters are not as the model has them by itself. */
export const countSet = (parameters) =>
  Object.keys(fieldsOf(parameters)).length + (systemOf(parameters) ? 1 : 0);

const systemOf = ({ system }) => (typeof system === 'string' ? system.trim() : '');

/** A conversation's messages in OpenAI's form, without what models thought: they are not told that again. */
export function messagesOf({ messages, parameters }) {
  const told = messages.map((message) =>
    message.role === 'user'
      ? { role: 'user', content: contentOf(message) }
      : { role: 'assistant', content: partsOf(message).text.trim() },
  );
  const system = systemOf(parameters);
  return [...(system ? [{ role: 'system', content: system }] : []), ...joined(told.filter(({ content }) => content.length))];
}

const contentOf = ({ text, images }) =>
  images.length
    ? [...images.map(({ url }) => ({ type: 'image_url', image_url: { url } })), ...(text ? [{ type: 'text', text }] : [])]
    : text;

/** Questions that were never answered join the next one: many chat templates insist that the two sides take turns. */
function joined(messages) {
  const turns = [];
  for (const { role, content } of messages) {
    const last = turns.at(-1);
    if (last?.role !== role) turns.push({ role, content });
    else if (typeof last.content === 'string' && typeof content === 'string') last.content += `\n\n${content}`;
    else last.content = [...asParts(last.content), ...asParts(content)];
  }
  return turns;
}

const asParts = (content) => (typeof content === 'string' ? [{ type: 'text', text: content }] : content);

/** The request for the next answer, as a program would make it. */
export const requestOf = (conversation) => ({
  model: conversation.model,
  messages: messagesOf(conversation),
  ...fieldsOf(conversation.parameters),
});

/** The same as the page asks for it: streamed, with the counts of tokens at the end. */
export const streamedRequestOf = (conversation) => ({
  ...requestOf(conversation),
  stream: true,
  stream_options: { include_usage: true },
});
