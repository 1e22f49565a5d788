/** What is sent for a conversation, and what it may be told besides. Pure. */

/** The numbers a person may set; left empty, the model's own default holds. */
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

const MOST_STOPS = 8;

/** The body of `POST /v1/chat/completions` for a conversation: {system, parameters, stop, messages}. */
export function requestBody(model, { system = '', parameters = {}, stop = '', messages }) {
  const sent = messages.filter(({ role, text }) => role === 'user' || text).map(toWire);
  const stops = stop.split('\n').filter(Boolean).slice(0, MOST_STOPS);
  return {
    model,
    messages: system.trim() ? [{ role: 'system', content: system }, ...sent] : sent,
    ...numbers(parameters),
    ...(stops.length ? { stop: stops } : {}),
  };
}

/** The same, streamed, with the counts of tokens at its end. */
export const streamedBody = (model, conversation) => ({
  ...requestBody(model, conversation),
  stream: true,
  stream_options: { include_usage: true },
});

function toWire({ role, text, images = [] }) {
  if (!images.length) return { role, content: text };
  const parts = images.map((url) => ({ type: 'image_url', image_url: { url } }));
  return { role, content: [...(text ? [{ type: 'text', text }] : []), ...parts] };
}

/** Those that were set and are numbers within their bounds. */
function numbers(parameters) {
  return Object.fromEntries(
    PARAMETERS.map(({ name, min, max }) => [name, parameters[name], min, max])
      .filter(([, value, min, max]) => Number.isFinite(value) && value >= min && value <= max)
      .map(([name, value]) => [name, value]),
  );
}
