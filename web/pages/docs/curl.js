/** curl command of an operation. Pure. */

import { API_KEY_PLACEHOLDER, shellQuote } from '../../core/curl.js';

/** `origin` is the server's URL. Path parameters stay in braces. WebSockets have no command. */
export function asCurl(origin, { method, path, open, example, body }) {
  if (method === 'WS') return null;
  const lines = [`curl ${method === 'GET' ? '' : `-X ${method} `}${shellQuote(origin + path)}`];
  if (!open) lines.push(`-H ${shellQuote(`Authorization: Bearer ${API_KEY_PLACEHOLDER}`)}`);
  if (body) {
    lines.push(`-H 'Content-Type: application/json'`);
    lines.push(`-d ${shellQuote(JSON.stringify(example ?? {}, null, 2))}`);
  }
  return lines.join(' \\\n  ');
}
