/** Renderer for Markdown written by a model, which is untrusted input. The parser is loaded on first use. */

import { html, render } from '../lib/html.js';
import { t } from '../core/i18n.js';
import { copyButton } from './copy-button.js';
import { mathExtensions, renderMath } from './math.js';

// In characters. Longer blocks are shown as plain text because crafted input can keep the parser busy for
// minutes.
const MAX_BLOCK_LENGTH = 20_000;
// These attributes hold no URLs, so the URL check must not apply to them.
const NON_URL_ATTRIBUTES = ['start', 'align', 'target', 'rel'];

const ALLOWED = {
  ALLOWED_TAGS: [
    ...[
      'p',
      'br',
      'hr',
      'strong',
      'em',
      'del',
      'sub',
      'sup',
      'a',
      'code',
      'pre',
      'blockquote',
      'ul',
      'ol',
      'li',
      'span',
    ],
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

/** Loads the parser and the sanitizer. `renderMarkdown` can be used once the promise resolves. */
export function loadMarkdown() {
  loading ??= Promise.all([
    import('../vendor/marked/marked.js'),
    import('../vendor/dompurify/dompurify.js'),
  ]).then(([{ Marked }, { default: purify }]) => {
    const parser = new Marked({ gfm: true, breaks: true, renderer: renderer(), extensions: mathExtensions });
    libraries = { parser, purify };
  });
  return loading;
}

/** Whether `renderMarkdown` can be used. */
export const isMarkdownLoaded = () => libraries !== null;

/**
 * Element for `text`. While it `isGrowing`, code is highlighted only if its language is loaded already, so
 * that it never loses its colours again.
 */
export function renderMarkdown(text, { isGrowing = false } = {}) {
  const container = document.createElement('div');
  container.className = 'markdown';
  const nodes = fragment(text);
  if (nodes) container.append(nodes);
  else {
    container.className = 'plain';
    container.textContent = text;
  }
  for (const code of container.querySelectorAll('pre > code')) decorateCodeBlock(code, isGrowing);
  renderMath(container);
  // Models start with any heading level. For screen readers all of them are one level below the heading of
  // the message.
  for (const heading of container.querySelectorAll('h3, h4, h5, h6')) heading.ariaLevel = '3';
  for (const table of container.querySelectorAll('table')) {
    const frame = document.createElement('div');
    frame.className = 'table-scroll';
    // Wide tables scroll; with a tab stop also by keyboard.
    frame.tabIndex = 0;
    frame.role = 'group';
    frame.ariaLabel = t('playground.table');
    table.replaceWith(frame);
    frame.append(table);
    table.className = 'table';
  }
  return container;
}

/** Sanitised nodes, or null if the text is too much for the parser. */
function fragment(text) {
  if (text.length > MAX_BLOCK_LENGTH) return null;
  try {
    return libraries.purify.sanitize(libraries.parser.parse(text), ALLOWED);
  } catch {
    // For example thousands of nested brackets.
    return null;
  }
}

const escape = (text) =>
  text.replace(
    /[&<>"']/g,
    (each) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' })[each],
  );

const IMAGE_DATA_URL = /^data:image\/(?:png|jpeg|gif|webp);base64,/i;
const ALLOWED_INLINE_HTML = /^<\/?(?:br|sub|sup)\s*\/?>$/i;

/** Differences from standard Markdown: no raw HTML, headings below those of the page, links in a new tab. */
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
  // An external image would tell its host that and when the message was read.
  image: ({ href, text }) =>
    IMAGE_DATA_URL.test(href) ? `<img src="${escape(href)}" alt="${escape(text)}">` : escape(text),
  checkbox: ({ checked }) => (checked ? '☑ ' : '☐ '),
});

// --- code --------------------------------------------------------------------------------------------

const LANGUAGES = {
  ...{
    sh: 'bash',
    zsh: 'bash',
    'c++': 'cpp',
    cs: 'csharp',
    'c#': 'csharp',
    docker: 'dockerfile',
    golang: 'go',
  },
  ...{ toml: 'ini', js: 'javascript', jsx: 'javascript', mjs: 'javascript', kt: 'kotlin', make: 'makefile' },
  ...{
    md: 'markdown',
    ps1: 'powershell',
    py: 'python',
    rb: 'ruby',
    rs: 'rust',
    console: 'shell',
    ts: 'typescript',
  },
  ...{ tsx: 'typescript', html: 'xml', svg: 'xml', yml: 'yaml' },
};
const VENDORED = new Set(
  `bash c cpp csharp css diff dockerfile go ini java javascript json kotlin lua makefile markdown php
  powershell python r ruby rust shell sql swift typescript xml yaml`.split(/\s+/),
);

function decorateCodeBlock(code, isGrowing) {
  const name = /(?:^|\s)language-(\S+)/.exec(code.className)?.[1] ?? '';
  code.className = '';
  const frame = document.createElement('div');
  frame.className = 'code';
  const head = document.createElement('div');
  head.className = 'code-head';
  const block = code.parentElement;
  render(
    html`
      <span>${name}</span>
      <button type="button" class="button quiet small" aria-pressed="false" @click=${(event) =>
        event.currentTarget.setAttribute('aria-pressed', String(block.classList.toggle('wrapped')))}>${t(
        'playground.wrap',
      )}</button>
      ${copyButton(() => code.textContent, t('common.copy_code'))}`,
    head,
  );
  // Long lines scroll; with a tab stop also by keyboard.
  block.tabIndex = 0;
  block.role = 'group';
  block.ariaLabel = name || t('playground.code');
  block.replaceWith(frame);
  frame.append(head, block);
  const language = LANGUAGES[name.toLowerCase()] ?? name.toLowerCase();
  if (!VENDORED.has(language)) return;
  const ready = highlighters.get(language);
  if (ready) ready(code);
  else loadHighlighter(language).then((highlight) => isGrowing || highlight(code));
}

// Language → function that highlights an element, once both modules are loaded.
const highlighters = new Map();

async function loadHighlighter(language) {
  const [{ default: engine }, { default: grammar }] = await Promise.all([
    import('../vendor/highlight/core.js'),
    import(`../vendor/highlight/languages/${language}.js`),
  ]);
  if (!engine.getLanguage(language)) engine.registerLanguage(language, grammar);
  const highlight = (code) => {
    const { value } = engine.highlight(code.textContent, { language, ignoreIllegals: true });
    code.replaceChildren(
      libraries.purify.sanitize(value, {
        ALLOWED_TAGS: ['span'],
        ALLOWED_ATTR: ['class'],
        RETURN_DOM_FRAGMENT: true,
      }),
    );
  };
  highlighters.set(language, highlight);
  return highlight;
}
