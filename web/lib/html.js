/**
 * Templates with escaping and fine-grained updates.
 *
 *   render(html`<p class="note" ?hidden=${done} @click=${open}>${text}</p>`, container)
 *
 * The static text of a template is parsed once. A value in `${}` never becomes markup: it is a text
 * node, an attribute or a property. Rendering again changes only the values that differ, so focus, selection
 * and scroll positions are kept.
 *
 *   text          string or number; null, undefined and booleans render nothing
 *   html`…`       template; a Node is inserted as it is (for markup that was sanitised elsewhere)
 *   [ … ]         list, matched by position
 *   each(items, key, view): list matched by key, one root element per item
 *   memo(deps, view): calls `view` only when one of `deps` has changed; where two memos alternate in
 *                 one place, `deps` has to distinguish them
 *   name=${v}     attribute; null, undefined and false remove it        ?name=${v}  boolean attribute
 *                 (a URL with a path of llb gets the base path)
 *   .name=${v}    property, compared with the element's current value   @name=${f}  event listener
 *   --name=${v}   custom CSS property (the page's CSP forbids style attributes)
 *   ref=${f}      f(element), called once on creation, possibly before the element is in the document
 */

import { toBrowserPath } from './base-path.js';

const MARK = 'llb:';
const policy = globalThis.trustedTypes?.createPolicy('llb', { createHTML: (text) => text });

// Classes rather than plain objects: parsed JSON can never pass for one of them.
class Template {
  constructor(strings, values, inSvg = false) {
    Object.assign(this, { strings, values, inSvg });
  }
}

class Keyed {
  constructor(items, key, view) {
    Object.assign(this, { items, key, view });
  }
}

class Memo {
  constructor(deps, view) {
    Object.assign(this, { deps, view });
  }
}

export const html = (strings, ...values) => new Template(strings, values);

/** Like `html`, for content of an `<svg>`. */
export const svg = (strings, ...values) => new Template(strings, values, true);

/** Keyed list: items keep their elements as long as `key(item)` stays the same. */
export const each = (items, key, view) => new Keyed(items, key, view);

/** Part of a view that is rendered again only when one of `deps` has changed. */
export const memo = (deps, view) => new Memo(deps, view);

const parts = new WeakMap();

/** Renders `value` into `container` with as few changes as possible. */
export function render(value, container) {
  let part = parts.get(container);
  if (!part) {
    container.replaceChildren(document.createComment(''));
    part = new ChildPart(container.lastChild);
    parts.set(container, part);
  }
  part.set(value);
}

// --- templates ---------------------------------------------------------------------------------------

const templates = new WeakMap();

function templateOf(strings, inSvg) {
  let template = templates.get(strings);
  if (!template) templates.set(strings, (template = parse(strings, inSvg)));
  return template;
}

/**
 * Element of a template's static text and the positions of its values: [node index, kind, name, static
 * parts].
 */
function parse(strings, inSvg) {
  let text = '';
  strings.forEach((piece, index) => {
    text += piece;
    if (index === strings.length - 1) return;
    const inTag = text.lastIndexOf('<') > text.lastIndexOf('>');
    text += inTag ? `${MARK}${index};` : `<!--${MARK}${index}-->`;
  });
  const markup = inSvg ? `<svg>${text.trim()}</svg>` : text.trim();
  const element = document.createElement('template');
  element.innerHTML = policy ? policy.createHTML(markup) : markup;
  if (inSvg) element.content.replaceChildren(...element.content.firstChild.childNodes);
  const holes = [];
  const walker = document.createTreeWalker(
    element.content,
    NodeFilter.SHOW_ELEMENT | NodeFilter.SHOW_COMMENT,
  );
  for (let index = 0, node = walker.nextNode(); node; node = walker.nextNode(), index += 1) {
    if (node.nodeType === Node.COMMENT_NODE) {
      if (node.data.startsWith(MARK))
        holes.push({ index, kind: 'child', first: Number(node.data.slice(MARK.length)) });
      continue;
    }
    for (const { name, value } of [...node.attributes]) {
      if (!value.includes(MARK)) {
        if (URLS.has(name)) node.setAttribute(name, toBrowserPath(value));
        continue;
      }
      const pieces = value.split(/llb:(\d+);/);
      const hole = { index, first: Number(pieces[1]), texts: pieces.filter((_, at) => at % 2 === 0) };
      node.removeAttribute(name);
      holes.push({ ...hole, ...attributeKind(name) });
    }
  }
  // Values are assigned in source order, so each needs the position at which it was written.
  let next = 0;
  const inOrder = holes.every(({ first, texts }) => {
    const expected = next;
    next += texts ? texts.length - 1 : 1;
    return first === expected;
  });
  if (!inOrder || next !== strings.length - 1) {
    throw new Error(`a value where the template cannot take one: ${strings.join('${}')}`);
  }
  return { element, holes };
}

function attributeKind(name) {
  if (name === 'ref') return { kind: 'ref', name };
  if (name.startsWith('--')) return { kind: 'style', name };
  const kind = { '?': 'boolean', '.': 'property', '@': 'listener' }[name[0]];
  return kind ? { kind, name: name.slice(1) } : { kind: 'attribute', name };
}

/** Instance of a template in the document. */
class Instance {
  constructor({ strings, inSvg }) {
    const { element, holes } = templateOf(strings, inSvg);
    this.strings = strings;
    this.fragment = document.importNode(element.content, true);
    const walker = document.createTreeWalker(
      this.fragment,
      NodeFilter.SHOW_ELEMENT | NodeFilter.SHOW_COMMENT,
    );
    let at = -1;
    let node = null;
    this.parts = holes.map((hole) => {
      while (at < hole.index) {
        node = walker.nextNode();
        at += 1;
      }
      return hole.kind === 'child' ? new ChildPart(node) : new AttributePart(node, hole);
    });
  }

  update(values) {
    let at = 0;
    for (const part of this.parts) {
      if (part.size === 1) part.set(values[at]);
      else part.setAll(values.slice(at, at + part.size));
      at += part.size;
    }
  }
}

// --- attributes --------------------------------------------------------------------------------------

const URLS = new Set(['href', 'src', 'action', 'formaction', 'data', 'xlink:href']);
const SAFE_URL = /^(?:https?:|blob:|data:image\/(?:png|jpeg|gif|webp);|[/?#.]|$)/i;

class AttributePart {
  constructor(element, { kind, name, texts }) {
    // The HTML parser lower-cases names; and URLs have to pass the check for attributes.
    if (kind === 'property' && (!(name in element) || URLS.has(name))) {
      throw new Error(`<${element.localName}> has no property '${name}' for a template`);
    }
    this.element = element;
    this.kind = kind;
    this.name = name;
    this.texts = texts;
    this.size = texts.length - 1;
    this.value = undefined;
    this.last = [];
  }

  setAll(values) {
    if (values.every((value, at) => Object.is(value, this.last[at])) && this.last.length) return;
    this.last = values;
    this.apply(this.texts.reduce((whole, piece, at) => `${whole}${plain(values[at - 1])}${piece}`));
  }

  set(value) {
    if (this.kind === 'property') {
      // The user may have changed the property since: compare with the element.
      if (this.element[this.name] !== value) this.element[this.name] = value;
      return;
    }
    if (Object.is(value, this.value) && this.last.length) return;
    this.last = [value];
    const fixed = this.texts[0] !== '' || this.texts[1] !== '';
    this.apply(fixed ? `${this.texts[0]}${plain(value)}${this.texts[1]}` : value);
    this.value = value;
  }

  apply(value) {
    const { element, name } = this;
    if (this.kind === 'ref') {
      if (!this.value) value(element);
    } else if (this.kind === 'listener') {
      if (!this.listens) element.addEventListener(name, (event) => this.value?.(event));
      this.listens = true;
    } else if (this.kind === 'boolean') {
      element.toggleAttribute(name, Boolean(value));
    } else if (this.kind === 'style') {
      element.style.setProperty(name, value ?? '');
    } else if (value === null || value === undefined || value === false) {
      element.removeAttribute(name);
    } else if (URLS.has(name) && !SAFE_URL.test(value)) {
      element.removeAttribute(name);
    } else {
      const text = value === true ? '' : value;
      element.setAttribute(name, URLS.has(name) ? toBrowserPath(text) : text);
    }
  }
}

// --- children ----------------------------------------------------------------------------------------

class ChildPart {
  constructor(anchor) {
    // The content is inserted before this node.
    this.anchor = anchor;
    this.size = 1;
    this.clear();
  }

  clear() {
    for (const node of this.nodes ?? []) node.remove();
    // The fragment may be rendered again.
    if (this.kind === 'node' && this.given instanceof DocumentFragment) this.given.append(...this.nodes);
    for (const node of this.ranges ?? []) removeUpTo(...node);
    this.items?.forEach((item) => item.element.remove());
    this.kind = 'nothing';
    this.nodes = this.ranges = this.items = this.instance = this.deps = null;
  }

  set(value) {
    if (value instanceof Memo) {
      if (this.deps && same(this.deps, value.deps)) return;
      const { deps } = value;
      this.set(value.view());
      this.deps = deps;
      return;
    }
    this.deps = null;
    if (value === null || value === undefined || typeof value === 'boolean') this.become('nothing');
    else if (value instanceof Template) this.setTemplate(value);
    else if (Array.isArray(value))
      this.setList(
        value,
        (_, at) => at,
        (item) => item,
      );
    else if (value instanceof Keyed) this.setList(value.items, value.key, value.view);
    else if (value instanceof Node) this.setNode(value);
    else this.setText(String(value));
  }

  become(kind) {
    if (this.kind === kind) return false;
    this.clear();
    this.kind = kind;
    return true;
  }

  setText(text) {
    if (this.become('text')) {
      this.nodes = [document.createTextNode(text)];
      this.anchor.before(this.nodes[0]);
    } else if (this.nodes[0].data !== text) {
      this.nodes[0].data = text;
    }
  }

  setNode(node) {
    if (this.kind === 'node' && this.given === node) return;
    this.clear();
    this.kind = 'node';
    this.given = node;
    this.nodes = node instanceof DocumentFragment ? [...node.childNodes] : [node];
    this.anchor.before(node);
  }

  setTemplate(result) {
    if (this.kind !== 'template' || this.instance.strings !== result.strings) {
      const instance = new Instance(result);
      // This may throw; in that case everything stays as it was.
      instance.update(result.values);
      this.clear();
      this.kind = 'template';
      this.instance = instance;
      // A part at the edge of the template may later insert nodes next to it, hence the range.
      const start = document.createComment('');
      this.anchor.before(start, instance.fragment);
      this.ranges = [[start, this.anchor]];
    } else {
      this.instance.update(result.values);
    }
  }

  setList(items, key, view) {
    if (this.become('list')) this.items = new Map();
    const before = this.items;
    const after = new Map();
    items.forEach((item, at) => {
      const name = key(item, at);
      if (after.has(name)) throw new Error(`two items of a list have the key ${name}`);
      const known = before.get(name) ?? new Item();
      known.set(view(item, at));
      after.set(name, known);
    });
    before.forEach((item, name) => after.has(name) || item.element.remove());
    this.items = after;
    let next = this.anchor;
    for (const { element } of [...after.values()].reverse()) {
      if (element.nextSibling !== next) move(element, next);
      next = element;
    }
  }
}

/** List item: a template with one root element, a node or a text, moved as a whole. */
class Item {
  set(value) {
    let result = value;
    if (value instanceof Memo) {
      if (this.deps && same(this.deps, value.deps)) return;
      result = value.view();
    }
    this.deps = null;
    if (!(result instanceof Template))
      this.show(result instanceof Node ? result : textNode(plain(result), this.element));
    else if (this.instance?.strings === result.strings) this.instance.update(result.values);
    else this.make(result);
    this.deps = value instanceof Memo ? value.deps : null;
  }

  make(result) {
    const instance = new Instance(result);
    instance.update(result.values);
    const { childNodes } = instance.fragment;
    if (childNodes.length !== 1) throw new Error('an item of a list has exactly one root element');
    this.show(childNodes[0], instance);
  }

  show(node, instance = null) {
    if (node !== this.element) this.element?.replaceWith(node);
    this.element = node;
    this.instance = instance;
  }
}

/** Moves `node` before `next`. `moveBefore`, where available, keeps focus, selection and transitions. */
function move(node, next) {
  const parent = next.parentNode;
  if (parent.moveBefore && parent.isConnected && node.isConnected) parent.moveBefore(node, next);
  else parent.insertBefore(node, next);
}

const textNode = (data, before) =>
  before instanceof Text && before.data === data ? before : document.createTextNode(data);

const plain = (value) =>
  value === null || value === undefined || typeof value === 'boolean' ? '' : String(value);

const same = (a, b) => a.length === b.length && a.every((value, at) => Object.is(value, b[at]));

function removeUpTo(start, end) {
  while (start.nextSibling !== end) start.nextSibling.remove();
  start.remove();
}
