/** Maths in Markdown: `$…$`, `$$…$$`, `\(…\)` and `\[…\]`. KaTeX is loaded with the first formula. */

// In characters.
const MAX_FORMULA_LENGTH = 4000;
const MAX_EXPANSIONS = 500;
const MAX_SIZE_EM = 20;

const INLINE = [
  /^\$\$((?:\\[\s\S]|[^\\$])+?)\$\$/,
  /^\\\(([\s\S]+?)\\\)/,
  // Prices are no formulas: no space inside of the signs, no digit after them.
  /^\$(?![\s$])((?:\\[\s\S]|[^\\$\n])*?(?:\\[\s\S]|[^\\$\s]))\$(?!\d)/,
];
const BLOCK = [/^ {0,3}\$\$([\s\S]+?)\$\$[ \t]*(?:\n|$)/, /^ {0,3}\\\[([\s\S]+?)\\\][ \t]*(?:\n|$)/];

const escape = (text) => text.replace(/[&<>"]/g, (each) => `&#${each.charCodeAt(0)};`);

const extension = (name, level, patterns, start) => ({
  name,
  level,
  start: (source) => {
    const at = source.search(start);
    return at < 0 ? undefined : at;
  },
  tokenizer(source) {
    for (const pattern of patterns) {
      const match = pattern.exec(source);
      if (match && match[1].trim() && match[1].length <= MAX_FORMULA_LENGTH)
        return { type: name, raw: match[0], text: match[1].trim() };
    }
    return undefined;
  },
  // The formula itself is shown until KaTeX is loaded, and where KaTeX refuses it.
  renderer: ({ text, raw }) =>
    level === 'block'
      ? `<p><code class="math-block">${escape(text)}</code></p>\n`
      : `<code class="${raw.startsWith('$$') ? 'math-block' : 'math-inline'}">${escape(text)}</code>`,
});

/** Extensions of Marked. */
export const mathExtensions = [
  extension('mathBlock', 'block', BLOCK, /(?:^|\n) {0,3}(?:\$\$|\\\[)/),
  extension('mathInline', 'inline', INLINE, /\$|\\\(/),
];

let katex = null;

/** Replaces the formulas in `container` by MathML, at once or when KaTeX is loaded. */
export function renderMath(container) {
  const formulas = container.querySelectorAll('code:is(.math-inline, .math-block)');
  if (!formulas.length) return;
  if (katex) formulas.forEach(renderFormula);
  else loadKatex().then(() => formulas.forEach(renderFormula));
}

async function loadKatex() {
  await import('../vendor/katex/katex.js');
  ({ katex } = globalThis);
}

function renderFormula(code) {
  const place = document.createElement('span');
  const displayMode = code.classList.contains('math-block');
  place.className = displayMode ? 'formula formula-block' : 'formula';
  try {
    katex.render(code.textContent, place, {
      output: 'mathml',
      displayMode,
      throwOnError: true,
      strict: 'ignore',
      trust: false,
      maxExpand: MAX_EXPANSIONS,
      maxSize: MAX_SIZE_EM,
    });
  } catch {
    // It stays as the model wrote it.
    return;
  }
  if (displayMode) place.tabIndex = 0;
  code.replaceWith(place);
}
