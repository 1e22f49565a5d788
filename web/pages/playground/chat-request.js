/** Body of a chat request, and the parameters it accepts. Pure. */

import { splitThinking } from './markdown-blocks.js';

/** Sampling parameters. Empty ones use the model's default. */
export const PARAMETERS = [
  { name: 'temperature', min: 0, max: 2, step: 0.05 },
  { name: 'top_p', min: 0, max: 1, step: 0.01 },
  { name: 'top_k', min: 0, max: 1000, step: 1 },
  { name: 'min_p', min: 0, max: 1, step: 0.01 },
  { name: 'max_tokens', min: 1, max: 131072, step: 1 },
  { name: 'presence_penalty', min: -2, max: 2, step: 0.1 },
  { name: 'frequency_penalty', min: -2, max: 2, step: 0.1 },
  { name: 'seed', min: 0, max: 4294967295, step: 1 },
];

const MAX_STOP_SEQUENCES = 8;

/** Parsed number, null for an empty text, or undefined if it is invalid. */
export function parseNumber(text, { min, max, step }) {
  if (text.trim() === '') return null;
  const value = Number(text);
  const whole = step !== 1 || Number.isInteger(value);
  return whole && value >= min && value <= max ? value : undefined;
}

/** Body of `POST /v1/chat/completions` for a conversation: {system, parameters, stop, messages}. */
export function requestBody(model, { system = '', parameters = {}, stop = '', messages }) {
  const sent = mergeTurns(messages.map(toWire).filter(({ content }) => content.length));
  const stops = stop.split('\n').filter(Boolean).slice(0, MAX_STOP_SEQUENCES);
  return {
    model,
    messages: system.trim() ? [{ role: 'system', content: system }, ...sent] : sent,
    ...numbers(parameters),
    ...(stops.length ? { stop: stops } : {}),
  };
}

/** The same as a stream that ends with the token counts. */
export const streamedBody = (model, conversation) => ({
  ...requestBody(model, conversation),
  stream: true,
  stream_options: { include_usage: true },
});

/**
 * Body of the next request: with the draft, else the last question again, else `example`. A trailing answer
 * is dropped, because the model would continue it.
 */
export function nextRequestBody(model, conversation, draft, example) {
  const { messages } = conversation;
  const asked = messages.at(-1)?.role === 'assistant' ? messages.slice(0, -1) : messages;
  const text = draft.text.trim();
  if (text || draft.images.length)
    return requestBody(model, {
      ...conversation,
      messages: [...messages, { role: 'user', text, images: draft.images }],
    });
  return requestBody(model, {
    ...conversation,
    messages: asked.length ? asked : [{ role: 'user', text: example }],
  });
}

/** Reasoning of the model is not sent back to it. */
function toWire({ role, text, images = [] }) {
  if (role === 'assistant') return { role, content: splitThinking(text).text.trim() };
  if (!images.length) return { role, content: text };
  const parts = images.map((url) => ({ type: 'image_url', image_url: { url } }));
  return { role, content: [...(text ? [{ type: 'text', text }] : []), ...parts] };
}

/** Merges consecutive messages of one role, because many chat templates insist on alternating roles. */
function mergeTurns(messages) {
  const turns = [];
  for (const { role, content } of messages) {
    const last = turns.at(-1);
    if (last?.role !== role) turns.push({ role, content });
    else if (typeof last.content === 'string' && typeof content === 'string')
      last.content += `\n\n${content}`;
    else last.content = [...asParts(last.content), ...asParts(content)];
  }
  return turns;
}

const asParts = (content) => (typeof content === 'string' ? [{ type: 'text', text: content }] : content);

/** The parameters that are set and within their bounds. */
function numbers(parameters) {
  return Object.fromEntries(
    PARAMETERS.map(({ name, min, max }) => [name, parameters[name], min, max])
      .filter(([, value, min, max]) => Number.isFinite(value) && value >= min && value <= max)
      .map(([name, value]) => [name, value]),
  );
}
