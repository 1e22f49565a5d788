/** A conversation as a program of one's own would send it. Pure. */

import { API_KEY_PLACEHOLDER, shellQuote } from '../../core/curl.js';

const MAX_ARGUMENT_BYTES = 100_000; // bytes; Linux takes no argument above 128 KiB, and images are larger

/** A command line for a POSIX shell. `origin` is where llb answers. */
export function asCurl(origin, body) {
  const document = JSON.stringify(body, null, 2);
  const long = new TextEncoder().encode(document).length > MAX_ARGUMENT_BYTES;
  return [
    `curl ${shellQuote(`${origin}/v1/chat/completions`)} \\`,
    `  -H ${shellQuote(`Authorization: Bearer ${API_KEY_PLACEHOLDER}`)} \\`,
    `  -H 'Content-Type: application/json' \\`,
    // No line of the document can be the closing word: JSON has no line ends in its strings.
    long ? `  --data-binary @- <<'JSON'\n${document}\nJSON` : `  -d ${shellQuote(document)}`,
  ].join('\n');
}

/** A script for OpenAI's own client. What that client does not name itself goes through `extra_body`. */
export function asPython(origin, body) {
  const { model, messages, ...rest } = body;
  const [known, extra] = [{}, {}];
  for (const [name, value] of Object.entries(rest)) (EXTRA_BODY_FIELDS.has(name) ? extra : known)[name] = value;
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

/** A value of JSON as Python writes it: strings have the same escapes, lists and dicts one entry a line. */
function literal(value, depth = 0) {
  const pad = '    '.repeat(depth + 1);
  const end = '    '.repeat(depth);
  if (value === null) return 'None';
  if (typeof value === 'boolean') return value ? 'True' : 'False';
  if (Array.isArray(value)) {
    return `[\n${value.map((item) => `${pad}${literal(item, depth + 1)},\n`).join('')}${end}]`;
  }
  if (typeof value === 'object') {
    const entries = Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${literal(item, depth + 1)}`);
    return `{${entries.join(', ')}}`;
  }
  return JSON.stringify(value);
}
