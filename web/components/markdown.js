/** Markdown that a model has written, as nodes that can do nothing: what it says is hostile. Loaded when first needed. */

import { html, render } from '../lib/html.js';
import { t } from '../core/i18n.js';
import { copyButton } from './copy-button.js';

const MAX_BLOCK_LENGTH = 20_000; // characters of a block; what is longer is shown as it is: parsers can be made to take for ever
const NON_URL_ATTRIBUTES = ['start', 'align', 'target', 'rel']; // no addresses, so the rule for these is not theirs

const ALLOWED = {
  ALLOWED_TAGS: [
    ...['p', 'br', 'hr', 'strong', 'em', 'del', 'sub', 'sup', 'a', 'code', 'pre', 'blockquote', 'ul', 'ol', 'li', 'span'],
    ...['h3', 'h4', 'h5', 'h6', 'table', 'thead', 'tbody', 'tr', 'th', 'td', 'img'],
  ],
  ALLOWED_ATTR: ['href', 'title', 'class', 'src', 'alt', ...NON_URL_ATTRIBUTES],
  ADD_URI_SAFE_ATTR: NON_URL_ATTRIBUTES,
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:|data:image\/(?:png|jpeg|gif|webp);base64,)/i,
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

let libraries = null;
let loading = null;

/** Fetch the parser and the sanitizer; resolves when `markdown` can be used. */
export function loadMarkdown() {
  loading ??= Promise.all([import('../vendor/marked/marked.js'), import('../vendor/dompurify/dompurify.js')]).then(
    ([{ Marked }, { default: purify }]) => {
      libraries = { parser: new Marked({ gfm: true, breaks: true, renderer: renderer() }), purify };
    },
  );
  return loading;
}

/** Whether `markdown` can be used. */
export const isMarkdownLoaded = () => libraries !== null;

/** `text` as an element. With `highlighted`, code is coloured too: for what will not change any more. */
export function renderMarkdown(text, { highlighted = false } = {}) {
  const container = document.createElement('div');
  container.className = 'markdown';
  const nodes = fragment(text);
  if (nodes) container.append(nodes);
  else {
    container.className = 'plain';
    container.textContent = text;
  }
  for (const code of container.querySelectorAll('pre > code')) decorateCodeBlock(code, highlighted);
  // A model begins with whichever it likes: large or small, for a screen reader all stand one below the answer itself.
  for (const heading of container.querySelectorAll('h3, h4, h5, h6')) heading.ariaLevel = '3';
  for (const table of container.querySelectorAll('table')) {
    const frame = document.createElement('div');
    frame.className = 'table-scroll';
    frame.tabIndex = 0; // wide ones scroll, by keyboard too
    frame.role = 'group';
    frame.ariaLabel = t('playground.table');
    table.replaceWith(frame);
    frame.append(table);
    table.className = 'table';
  }
  return container;
}

/** The sanitised nodes of a text; null for one that is too much for the parser. */
function fragment(text) {
  if (text.length > MAX_BLOCK_LENGTH) return null;
  try {
    return libraries.purify.sanitize(libraries.parser.parse(text), ALLOWED);
  } catch {
    return null; // thousands of brackets in each other
  }
}

const escape = (text) =>
  text.replace(/[&<>"']/g, (each) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' })[each]);

const IMAGE_DATA_URL = /^data:image\/(?:png|jpeg|gif|webp);base64,/i;
const ALLOWED_INLINE_HTML = /^<\/?(?:br|sub|sup)\s*\/?>$/i;

/** What differs from plain Markdown: no markup of the model's own, headings below the page's, links that open elsewhere. */
const renderer = () => ({
  html: ({ text }) => (ALLOWED_INLINE_HTML.test(text) ? text : escape(text)),
  heading({ tokens, depth }) {
    const level = Math.min(6, depth + 2);
    return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>\n`;
  },
  link({ href, title, tokens }) {
    const text = this.parser.parseInline(tokens);
    if (!/^(?:https?:|mailto:)/i.test(href)) return text;
    const hint = title ? ` title="${escape(title)}"` : '';
    return `<a href="${escape(href)}"${hint} target="_blank" rel="noreferrer noopener">${text}</a>`;
  },
  // A picture from elsewhere would tell its host that, and when, the answer was read.
  image: ({ href, text }) =>
    IMAGE_DATA_URL.test(href) ? `<img src="${escape(href)}" alt="${escape(text)}">` : escape(text),
  checkbox: ({ checked }) => (checked ? '☑ ' : '☐ '),
});

// --- code --------------------------------------------------------------------------------------------

const LANGUAGES = {
  ...{ sh: 'bash', zsh: 'bash', 'c++': 'cpp', cs: 'csharp', 'c#': 'csharp', docker: 'dockerfile', golang: 'go' },
  ...{ toml: 'ini', js: 'javascript', jsx: 'javascript', mjs: 'javascript', kt: 'kotlin', make: 'makefile' },
  ...{ md: 'markdown', ps1: 'powershell', py: 'python', rb: 'ruby', rs: 'rust', console: 'shell', ts: 'typescript' },
  ...{ tsx: 'typescript', html: 'xml', svg: 'xml', yml: 'yaml' },
};
const VENDORED = new Set(
  `bash c cpp csharp css diff dockerfile go ini java javascript json kotlin lua makefile markdown php powershell python r
  ruby rust shell sql swift typescript xml yaml`.split(/\s+/),
);

function decorateCodeBlock(code, highlighted) {
  const name = /(?:^|\s)language-(\S+)/.exec(code.className)?.[1] ?? '';
  code.className = '';
  const frame = document.createElement('div');
  frame.className = 'code';
  const head = document.createElement('div');
  head.className = 'code-head';
  render(html`<span>${name}</span>${copyButton(() => code.textContent, t('common.copy_code'))}`, head);
  const block = code.parentElement;
  block.tabIndex = 0; // long lines scroll, by keyboard too
  block.role = 'group';
  block.ariaLabel = name || t('playground.code');
  block.replaceWith(frame);
  frame.append(head, block);
  const language = LANGUAGES[name.toLowerCase()] ?? name.toLowerCase();
  if (highlighted && VENDORED.has(language)) highlight(code, language);
}

/** Colours come a moment later; without them the code is there all the same. */
async function highlight(code, language) {
  const [{ default: engine }, { default: grammar }] = await Promise.all([
    import('../vendor/highlight/core.js'),
    import(`../vendor/highlight/languages/${language}.js`),
  ]);
  if (!engine.getLanguage(language)) engine.registerLanguage(language, grammar);
  const { value } = engine.highlight(code.textContent, { language, ignoreIllegals: true });
  code.replaceChildren(
    libraries.purify.sanitize(value, { ALLOWED_TAGS: ['span'], ALLOWED_ATTR: ['class'], RETURN_DOM_FRAGMENT: true }),
  );
}
