/** A request as a command and as a program that can be pasted and run. Pure. */

export const KEY_PLACEHOLDER = 'sk-…';

// Linux takes no single argument above 128 KiB; images are larger.
const LONGEST_ARGUMENT = 100_000;

/** For any POSIX shell. */
export function asCurl(request, origin) {
  const body = JSON.stringify(request, null, 2);
  const long = new TextEncoder().encode(body).length > LONGEST_ARGUMENT;
  const lines = [
    `curl ${quoted(`${origin}/v1/chat/completions`)}`,
    `-H ${quoted(`Authorization: Bearer ${KEY_PLACEHOLDER}`)}`,
    `-H ${quoted('Content-Type: application/json')}`,
    // No line of the document can be the closing word: its strings hold no line ends.
    long ? `--data-binary @- <<'JSON'\n${body}\nJSON` : `-d ${quoted(body)}`,
  ];
  return lines.join(' \\\n  ');
}

/** For the package `openai`. Fields that it does not know travel in `extra_body`. */
export function asPython(request, origin) {
  const { top_k, min_p, ...known } = request;
  const own = Object.fromEntries(Object.entries({ top_k, min_p }).filter(([, value]) => value !== undefined));
  const fields = [...Object.entries(known), ...(Object.keys(own).length ? [['extra_body', own]] : [])];
  return [
    'from openai import OpenAI',
    '',
    `client = OpenAI(base_url=${literal(`${origin}/v1`)}, api_key=${literal(KEY_PLACEHOLDER)})`,
    'answer = client.chat.completions.create(',
    ...fields.map(([name, value]) => `    ${name}=${literal(value, '    ')},`),
    ')',
    'print(answer.choices[0].message.content)',
    '',
  ].join('\n');
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** A value as Python writes it. JSON's strings are Python's, too. */
function literal(value, indent = '') {
  const inner = `${indent}    `;
  if (value === null) return 'None';
  if (typeof value === 'boolean') return value ? 'True' : 'False';
  if (Array.isArray(value)) return block('[', value.map((item) => literal(item, inner)), ']', indent);
  if (typeof value === 'object') {
    return block('{', Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${literal(item, inner)}`), '}', indent);
  }
  return JSON.stringify(value);
}

const block = (open, items, close, indent) =>
  items.length ? [open, ...items.map((item) => `${indent}    ${item},`), `${indent}${close}`].join('\n') : open + close;
