/** pages/playground/code-snippets.js. */

import { asCurl, asPython } from '/web/pages/playground/settings/code-snippets.js';
import { equal, ok, test } from './runner.js';

const body = (content, more = {}) => ({ model: 'm', messages: [{ role: 'user', content }], ...more });

/** Arguments as a POSIX shell parses them, for the output of asCurl only: words, single quotes and \'. */
function words(command) {
  const found = [''];
  let quoted = false;
  for (let at = 0; at < command.length; at += 1) {
    const char = command[at];
    if (char === "'") quoted = !quoted;
    else if (quoted) found[found.length - 1] += char;
    else if (char === '\\') found[found.length - 1] += command[(at += 1)] === '\n' ? '' : command[at];
    else if (/\s/.test(char)) found.push('');
    else found[found.length - 1] += char;
  }
  ok(!quoted, 'a quote is open');
  return found.filter(Boolean);
}

test('a shell hands curl exactly what was said, whatever it was', () => {
  for (const text of [
    "it's",
    "'; rm -rf / #",
    '$(id) `id` $HOME \\ "',
    'line\nline',
    "''\\''",
    '日本 🙂',
    '!!',
  ]) {
    const found = words(asCurl('http://attic:8080', body(text)));
    equal(found.slice(0, 2), ['curl', 'http://attic:8080/v1/chat/completions']);
    equal(JSON.parse(found[found.indexOf('-d') + 1]), body(text));
  }
});

test('what is too long for an argument goes through the input', () => {
  const lines = asCurl('http://x', body('JSON\n'.repeat(30_000))).split('\n');
  const begin = lines.findIndex((line) => line.endsWith("<<'JSON'"));
  equal(lines.indexOf('JSON'), lines.length - 1, 'no line of the document ends it');
  equal(JSON.parse(lines.slice(begin + 1, -1).join('\n')), body('JSON\n'.repeat(30_000)));
});

test('Python is told what its client knows, and the rest as extra_body', () => {
  const script = asPython(
    'http://x',
    body('"""\\ \'x\' {y}', { temperature: 0.5, top_k: 3, stop: ['a'], ok: true, none: null }),
  );
  ok(
    script.includes('base_url="http://x/v1"') &&
      script.includes('temperature=0.5,') &&
      script.includes('extra_body={"top_k": 3},'),
  );
  ok(script.includes('ok=True,') && script.includes('none=None,'));
  ok(script.includes(JSON.stringify('"""\\ \'x\' {y}')), 'a text is one literal');
});
