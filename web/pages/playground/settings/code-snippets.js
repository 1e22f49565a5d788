/** Code snippets that send the conversation from another program. Pure. */

import { API_KEY_PLACEHOLDER, shellQuote } from '../../../core/curl.js';

// In bytes. Linux limits one argument to 128 KiB, and images are larger.
const MAX_ARGUMENT_BYTES = 100_000;

/** Command for a POSIX shell. `origin` is the server's URL. */
export function asCurl(origin, body) {
  const document = JSON.stringify(body, null, 2);
  const long = new TextEncoder().encode(document).length > MAX_ARGUMENT_BYTES;
  return [
    `curl ${shellQuote(`${origin}/v1/chat/completions`)} \\`,
    `  -H ${shellQuote(`Authorization: Bearer ${API_KEY_PLACEHOLDER}`)} \\`,
    `  -H 'Content-Type: application/json' \\`,
    // No line of the document can equal the delimiter, because strings in JSON contain no line breaks.
    long ? `  --data-binary @- <<'JSON'\n${document}\nJSON` : `  -d ${shellQuote(document)}`,
  ].join('\n');
}

/** Script for OpenAI's Python client. Parameters unknown to that client are passed in `extra_body`. */
export function asPython(origin, body) {
  const { model, messages, ...rest } = body;
  const [known, extra] = [{}, {}];
  for (const [name, value] of Object.entries(rest))
    (EXTRA_BODY_FIELDS.has(name) ? extra : known)[name] = value;
  const options = { ...known, ...(Object.keys(extra).length ? { extra_body: extra } : {}) };
  return [
    'from openai import OpenAI',
    '',
    `client = OpenAI(base_url=${literal(`${origin}/v1`)}, api_key=${literal(API_KEY_PLACEHOLDER)})`,
    'stream = client.chat.completions.create(',
    `    model=${literal(model)},`,
    `    messages=${literal(messages, 1)},`,
    ...Object.entries(options).map(([name, value]) => `    ${name}=${literal(value, 1)},`),
    '    stream=True,',
    ')',
    'for chunk in stream:',
    '    if chunk.choices:',
    '        print(chunk.choices[0].delta.content or "", end="", flush=True)',
    '',
  ].join('\n');
}

const EXTRA_BODY_FIELDS = new Set(['top_k', 'min_p']);

/** JSON value as a Python literal: strings use the same escapes; lists have one item per line. */
function literal(value, depth = 0) {
  const pad = '    '.repeat(depth + 1);
  const end = '    '.repeat(depth);
  if (value === null) return 'None';
  if (typeof value === 'boolean') return value ? 'True' : 'False';
  if (Array.isArray(value)) {
    return `[\n${value.map((item) => `${pad}${literal(item, depth + 1)},\n`).join('')}${end}]`;
  }
  if (typeof value === 'object') {
    const entries = Object.entries(value).map(
      ([name, item]) => `${JSON.stringify(name)}: ${literal(item, depth + 1)}`,
    );
    return `{${entries.join(', ')}}`;
  }
  return JSON.stringify(value);
}
