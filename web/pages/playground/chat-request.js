/** Body of a chat request, and the parameters it accepts. Pure. */

import { fenced } from './conversations/transfer.js';
import { splitThinking } from './messages/markdown-blocks.js';

/** Sampling parameters. Empty ones use the engine's default, which is `usual`. */
export const PARAMETERS = [
  { name: 'temperature', min: 0, max: 2, step: 0.05, usual: 0.8 },
  { name: 'top_p', min: 0, max: 1, step: 0.01, usual: 0.95 },
  { name: 'top_k', min: 0, max: 1000, step: 1, usual: 40 },
  { name: 'min_p', min: 0, max: 1, step: 0.01, usual: 0.05 },
  { name: 'max_tokens', min: 1, max: 131072, step: 1, usual: null },
  { name: 'presence_penalty', min: -2, max: 2, step: 0.1, usual: 0 },
  { name: 'frequency_penalty', min: -2, max: 2, step: 0.1, usual: 0 },
  { name: 'seed', min: 0, max: 4294967295, step: 1, usual: null },
];

const MAX_STOP_SEQUENCES = 8;

/** Parsed number, null for an empty text, or undefined if it is invalid. */
export function parseNumber(text, { min, max, step }) {
  if (text.trim() === '') return null;
  const value = Number(text);
  const whole = step !== 1 || Number.isInteger(value);
  return whole && value >= min && value <= max ? value : undefined;
}

/** Body of `POST /v1/chat/completions` for `messages` with the settings {system, parameters, stop}. */
export function requestBody(model, { system = '', parameters = {}, stop = '' }, messages) {
  const sent = mergeTurns(messages.map(toWire).filter(({ content }) => content.length));
  const stops = stop.split('\n').filter(Boolean).slice(0, MAX_STOP_SEQUENCES);
  return {
    model,
    messages: system.trim() ? [{ role: 'system', content: system }, ...sent] : sent,
    ...numbers(parameters),
    ...(stops.length ? { stop: stops } : {}),
  };
}

/** Body that continues the answer at the end of `messages`, without another reasoning. */
export const continuationBody = (model, settings, messages) => ({
  ...requestBody(model, settings, messages),
  chat_template_kwargs: { enable_thinking: false },
});

/**
 * Body of the next request: with the draft, else the last question again, else `example`. A trailing answer
 * is dropped, because the model would continue it.
 */
export function nextRequestBody(model, settings, messages, draft, example) {
  const asked = messages.at(-1)?.role === 'assistant' ? messages.slice(0, -1) : messages;
  const text = draft.text.trim();
  if (text || draft.images.length || draft.files.length)
    return requestBody(model, settings, [...messages, { role: 'user', ...draft, text }]);
  return requestBody(model, settings, asked.length ? asked : [{ role: 'user', text: example }]);
}

/** Text of a question with its files before it, each as a code block under its name. */
export const textWithFiles = ({ text, files = [] }) =>
  [...files.map((file) => `${file.name}:\n${fenced(file.text)}`), text].filter(Boolean).join('\n\n');

/** Reasoning of the model is not sent back to it. */
function toWire(message) {
  const { role, text, images = [] } = message;
  if (role === 'assistant') return { role, content: splitThinking(text).text.trim() };
  const content = textWithFiles(message);
  if (!images.length) return { role, content };
  const parts = images.map((url) => ({ type: 'image_url', image_url: { url } }));
  return { role, content: [...(content ? [{ type: 'text', text: content }] : []), ...parts] };
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
