/** lib/html.js: values are escaped, and updates are minimal. */

import { each, html, memo, svg } from '/web/lib/html.js';
import { changes, draw, shown } from './drawing.js';
import { equal, fails, ok, place, test } from './runner.js';

const HOSTILE = [
  '<script>window.hit = 1</script>',
  '<img src=x onerror="window.hit = 1">',
  '"><svg onload=window.hit=1>',
  "' onmouseover='window.hit=1",
  '</textarea><b>',
  '<!-- ',
  '--><i>',
  '&lt;b&gt;&amp;&quot;',
  'llb:0;',
  '<!--llb:0-->',
  '{{assets}}',
  '${1}',
  '\u0000\u2028\u202e',
  '日本語 🙂 e\u0301',
];

// --- text --------------------------------------------------------------------------------------------

test('a hostile text is shown as it is and makes no element', () => {
  for (const text of HOSTILE) {
    const element = draw(html`<p>${text}</p>`);
    equal(element.querySelector('p').textContent, text);
    equal(element.querySelectorAll('*').length, 1, text);
  }
  equal(window.hit, undefined);
});

test('a hostile text beside others, at the root and in a list', () => {
  for (const text of HOSTILE) {
    equal(draw(text).textContent, text);
    equal(draw(html`${text}${text}`).textContent, text + text);
    equal(draw(html`a${text}b`).textContent, `a${text}b`);
    equal(draw([text, text]).textContent, text + text);
    const list = draw(
      html`<ul>${each(
        [text],
        (item) => item,
        (item) => html`<li>${item}</li>`,
      )}</ul>`,
    );
    equal(list.querySelector('li').textContent, text);
  }
  equal(window.hit, undefined);
});

test('nothing is shown of null, undefined, true and false; zero and NaN are shown', () => {
  const element = place();
  for (const [value, text] of [
    [null, ''],
    [undefined, ''],
    [true, ''],
    [false, ''],
    ['', ''],
    [0, '0'],
    [-0, '0'],
    [NaN, 'NaN'],
    [12n, '12'],
    [1.5, '1.5'],
  ]) {
    equal(draw(html`<p>${value}</p>`, element).textContent, text);
    equal(draw([value]).textContent, text);
    equal(draw(value).textContent, text);
  }
});

test('what comes out of JSON is text, whatever it looks like', () => {
  const pretenders = [
    { strings: ['<img src=x onerror="window.hit = 1">'], values: [] },
    { strings: ['<b>', '</b>'], values: ['x'], inSvg: true },
    { items: ['a'], key: 'a', view: 'a' },
    { deps: [], view: 'x' },
  ];
  for (const value of JSON.parse(JSON.stringify(pretenders))) {
    equal(
      draw(html`<p>${value}</p>`)
        .querySelector('p')
        .innerHTML.replace(/<!--.*?-->/g, ''),
      '[object Object]',
    );
    equal(draw([value]).textContent, '[object Object]');
    equal(draw(value).childElementCount, 0);
  }
});

test('a text that changes keeps its node; the same text is not written again', () => {
  const view = (text) => html`<p>${text}</p>`;
  const element = draw(view('one'));
  const [node] = element.querySelector('p').childNodes;
  const records = changes(element, () => draw(view('two'), element));
  equal(node.data, 'two');
  equal(
    records.map(({ type }) => type),
    ['characterData'],
  );
  equal(changes(element, () => draw(view('two'), element)).length, 0);
});

test('a value changes from any kind to any other', () => {
  const node = document.createElement('hr');
  const kinds = [
    [null, ''],
    ['text', 'text'],
    [7, '7'],
    [html`<b>x</b>`, '<b>x</b>'],
    [html`<b>x</b>y<i>z</i>`, '<b>x</b>y<i>z</i>'],
    [html`${'edge'}`, 'edge'],
    [[1, html`<i>2</i>`, null], '1<i>2</i>'],
    [[], ''],
    [
      each(
        [1, 2],
        (n) => n,
        (n) => html`<u>${n}</u>`,
      ),
      '<u>1</u><u>2</u>',
    ],
    [node, '<hr>'],
    [memo([1], () => html`<s>m</s>`), '<s>m</s>'],
    [memo([2], () => null), ''],
  ];
  for (const [from, before] of kinds) {
    for (const [to, after] of kinds) {
      const element = place();
      const view = (value) => html`<p>a${value}b</p>`;
      draw(view(from), element);
      equal(shown(element), `<p>a${before}b</p>`);
      draw(view(to), element);
      equal(shown(element), `<p>a${after}b</p>`, `${before} to ${after}`);
      draw(view(from), element);
      equal(shown(element), `<p>a${before}b</p>`, `${after} back to ${before}`);
    }
  }
});

// --- attributes --------------------------------------------------------------------------------------

test('a hostile text in an attribute stays in it', () => {
  for (const text of HOSTILE) {
    const [whole, quoted, part] = draw(
      html`<p title=${text}></p><p title="${text}"></p><p title="a ${text} b ${text}"></p>`,
    ).children;
    equal(whole.getAttributeNames(), ['title']);
    equal(whole.title, text);
    equal(quoted.title, text);
    equal(part.title, `a ${text} b ${text}`);
  }
  equal(window.hit, undefined);
});

test('null, undefined and false remove an attribute, true leaves it empty, zero stays', () => {
  const element = place();
  const view = (value) => html`<p aria-current=${value}></p>`;
  const now = (value) => draw(view(value), element).firstElementChild.getAttribute('aria-current');
  equal([null, 'page', undefined, 0, false, true, ''].map(now), [null, 'page', null, '0', null, '', '']);
});

test('null, undefined and false are empty in a mixed attribute', () => {
  const element = place();
  const view = (a, b) => html`<p class="card ${a} ${b}"></p>`;
  const now = (...values) => draw(view(...values), element).firstElementChild.className;
  equal(now('x', 'y'), 'card x y');
  equal(now(null, undefined), 'card  ');
  equal(now(false, 0), 'card  0');
});

test('one value in a fixed text, with null too', () => {
  const element = place();
  const view = (value) => html`<p class="badge ${value}"></p>`;
  equal(draw(view('good'), element).firstElementChild.className, 'badge good');
  equal(draw(view(null), element).firstElementChild.className, 'badge ');
  equal(draw(view(false), element).firstElementChild.className, 'badge ');
});

test('an attribute is written only when its value is another one', () => {
  const view = (a, b, c) => html`<p title=${a} class="x ${b} ${c}" ?hidden=${c}></p>`;
  const element = draw(view('a', 'b', true));
  equal(changes(element, () => draw(view('a', 'b', true), element)).length, 0);
  equal(
    changes(element, () => draw(view('z', 'b', true), element)).map((each) => each.attributeName),
    ['title'],
  );
  equal(
    changes(element, () => draw(view('z', 'y', true), element)).map((each) => each.attributeName),
    ['class'],
  );
});

test('?name is there or not', () => {
  const element = place();
  const now = (value) => draw(html`<button ?disabled=${value}></button>`, element).firstElementChild.disabled;
  equal([true, false, 1, 0, 'x', '', null, undefined].map(now), [
    true,
    false,
    true,
    false,
    true,
    false,
    false,
    false,
  ]);
});

test('addresses that run a script are refused, those that lead somewhere are not', () => {
  const bad = [
    'javascript:window.hit=1',
    'JaVaScRiPt:alert(1)',
    ' javascript:alert(1)',
    '\tjavascript:alert(1)',
    '\u0001javascript:alert(1)',
    'java\nscript:alert(1)',
    'data:text/html,<script>alert(1)</script>',
    'data:image/svg+xml,<svg onload=alert(1)>',
    'vbscript:x',
    'file:///etc/passwd',
    'filesystem:x',
    'xjavascript:x',
  ];
  const good = [
    'https://a.example/',
    'http://a.example/',
    '/models',
    './x',
    '?q=1',
    '#main',
    '',
    'blob:x',
    'data:image/png;base64,AA',
  ];
  for (const name of ['href', 'src', 'action', 'formaction']) {
    const views = {
      href: (url) => html`<a href=${url}>x</a>`,
      src: (url) => html`<source src=${url} />`,
      action: (url) => html`<form action=${url}></form>`,
      formaction: (url) => html`<button formaction=${url}></button>`,
    };
    const element = place();
    const now = (url) => draw(views[name](url), element).firstElementChild.getAttribute(name);
    // A bad one takes the place of a good one, too.
    for (const url of bad) equal([now('/ok'), now(url)], ['/ok', null], `${name}: ${url}`);
    for (const url of good) equal(now(url), url, name);
  }
  for (const url of bad) {
    equal(draw(html`<a href="${url}"></a>`).firstElementChild.hasAttribute('href'), false);
    equal(draw(svg`<a href=${url}></a>`).firstElementChild.hasAttribute('href'), false);
    equal(draw(svg`<a xlink:href=${url}></a>`).firstElementChild.hasAttribute('xlink:href'), false);
  }
  equal(window.hit, undefined);
});

test('--name sets a custom property, and takes it away', () => {
  const element = place();
  const now = (value) =>
    draw(html`<div --share=${value}></div>`, element).firstElementChild.style.getPropertyValue('--share');
  equal([0.5, 0, null, '2', undefined].map(now), ['0.5', '0', '', '2', '']);
  equal(element.firstElementChild.getAttribute('--share'), null);
});

test('a hostile custom property sets nothing else', () => {
  const { style } = draw(
    html`<div --share=${'1; background: url(https://a.example)'}></div>`,
  ).firstElementChild;
  equal(style.background, '');
  equal(
    [...style].filter((name) => name !== '--share'),
    [],
  );
});

// An invalid URL also replaces a valid one.

test('a property is compared with what the person typed', () => {
  const view = (value) => html`<input .value=${value} />`;
  const element = draw(view('a'));
  const input = element.firstElementChild;
  input.value = 'typed';
  draw(view('typed'), element);
  input.setSelectionRange(2, 2);
  draw(view('typed'), element);
  equal([input.value, input.selectionStart], ['typed', 2]);
  draw(view('a'), element);
  equal(input.value, 'a');
  input.value = 'b';
  draw(view('a'), element);
  equal(input.value, 'a', 'our value wins although it is as before');
});

test('a property that the element does not have, or that leads somewhere, is an error', async () => {
  await fails(() => draw(html`<p .textContent=${'x'}></p>`), /textcontent/);
  await fails(() => draw(html`<a .href=${'/models'}></a>`), /href/);
});

test('a listener is replaced, not added; null takes it away', () => {
  const heard = [];
  const view = (listener) => html`<button @click=${listener}></button>`;
  const element = draw(view(() => heard.push('one')));
  const button = element.firstElementChild;
  button.click();
  draw(
    view(() => heard.push('two')),
    element,
  );
  button.click();
  draw(view(null), element);
  button.click();
  draw(
    view((event) => heard.push(event.currentTarget === button)),
    element,
  );
  button.click();
  equal(heard, ['one', 'two', true]);
});

test('many renderings add one listener', () => {
  let added = 0;
  const original = EventTarget.prototype.addEventListener;
  EventTarget.prototype.addEventListener = function add(...args) {
    added += 1;
    return original.apply(this, args);
  };
  try {
    const element = place();
    for (let at = 0; at < 50; at += 1)
      draw(html`<button @click=${() => at} @keydown=${() => at}></button>`, element);
  } finally {
    EventTarget.prototype.addEventListener = original;
  }
  equal(added, 2);
});

test('ref is called once with the element', () => {
  const met = [];
  const view = (text) => html`<p ref=${(element) => met.push(element)}>${text}</p>`;
  const element = draw(view('a'));
  equal(met.length, 1);
  draw(view('b'), element);
  equal(met.length, 1);
  ok(met[0] === element.firstElementChild);
  equal(met[0].hasAttribute('ref'), false);
});

// --- templates ---------------------------------------------------------------------------------------

test('the same template keeps its element, another one replaces it', () => {
  const one = (text) => html`<p>${text}</p>`;
  const other = (text) => html`<p>${text}</p>`;
  const element = draw(one('a'));
  const first = element.firstElementChild;
  draw(one('b'), element);
  ok(element.firstElementChild === first);
  draw(other('b'), element);
  ok(element.firstElementChild !== first);
  equal(shown(element), '<p>b</p>');
});

test('templates in templates change at every depth', () => {
  const leaf = (n) => (n % 2 ? html`<i>${n}</i>` : html`<b>${n}</b>`);
  const view = (n) => html`<div>${n > 2 ? html`<p>${leaf(n)}</p>` : leaf(n)}${n}</div>`;
  const element = place();
  const now = (n) => shown(draw(view(n), element));
  equal([1, 2, 3, 4, 1].map(now), [
    '<div><i>1</i>1</div>',
    '<div><b>2</b>2</div>',
    '<div><p><i>3</i></p>3</div>',
    '<div><p><b>4</b></p>4</div>',
    '<div><i>1</i>1</div>',
  ]);
});

test('a template that ends in a value leaves nothing behind', () => {
  const edge = (value) => html`${value}<hr />${value}`;
  const element = place();
  const view = (value) => html`<p>${value}</p>`;
  draw(view(edge('a')), element);
  draw(view(edge([1, 2])), element);
  draw(view(edge(html`<b>c</b>${'d'}`)), element);
  draw(view('x'), element);
  equal(shown(element), '<p>x</p>');
});

test('values reach their places in the order in which they are written', () => {
  const element = draw(
    html`<p title=${1} class="a ${2} ${3}">${4}<b ?hidden=${true} lang=${'ja'}>${5}</b></p><i id=${6}>${7}</i>`,
  );
  equal(shown(element), '<p title="1" class="a 2 3">4<b hidden="" lang="ja">5</b></p><i id="6">7</i>');
});

test('values in tables and selects stay in them', () => {
  const row = (n) => html`<tr><td>${n}</td></tr>`;
  equal(
    shown(draw(html`<table><tbody>${[1, 2].map(row)}</tbody></table>`)),
    '<table><tbody><tr><td>1</td></tr><tr><td>2</td></tr></tbody></table>',
  );
  equal(
    draw(
      html`<select>${['a', 'b'].map((name) => html`<option value=${name}>${name}</option>`)}</select>`,
    ).querySelectorAll('select > option').length,
    2,
  );
});

test('a place that cannot hold a value is an error, not another place', async () => {
  await fails(() => draw(html`<textarea>${'x'}</textarea><p title=${'y'}></p>`), /template/);
  await fails(() => draw(html`<${'p'}></p>`), /template/);
  await fails(() => draw(html`<p class=${'a'} class=${'b'}></p>`), /template/);
  await fails(
    () => draw(html`<table class=${'a'}><p title=${'b'}></p></table>`),
    /template/,
    'the parser puts p before table',
  );
});

test('what a view throws leaves the page as it was, and the next rendering works', async () => {
  const broken = () => {
    throw new Error('broken view');
  };
  const element = place();
  const view = (items, item) => html`<main>${each(items, (name) => name, item)}</main>`;
  const good = (name) => html`<p>${name}</p>`;
  draw(view(['a', 'b', 'c'], good), element);
  await fails(
    () =>
      draw(
        view(['b', 'c', 'd'], (name) => (name === 'c' ? broken() : good(name))),
        element,
      ),
    /broken view/,
  );
  await fails(() => draw(view(['a', 'a'], good), element), /the key a/);
  draw(view(['c', 'd'], good), element);
  equal(shown(element), '<main><p>c</p><p>d</p></main>');

  const part = (value) => html`<section>${value}</section>`;
  const inner = (run) => html`<p>${memo([run], run)}</p>`;
  const other = place();
  draw(part('before'), other);
  await fails(() => draw(part(inner(broken)), other), /broken view/);
  equal(shown(other), '<section>before</section>');
  draw(part(inner(() => 'after')), other);
  equal(shown(other), '<section><p>after</p></section>');
  draw([inner(() => 'one')], other);
  await fails(() => draw([inner(() => 'one'), inner(broken)], other), /broken view/);
  draw([inner(() => 'one'), inner(() => 'two')], other);
  equal(shown(other), '<p>one</p><p>two</p>');
});

test('each container is drawn for itself', () => {
  const view = (text) => html`<p>${text}</p>`;
  const [one, other] = [draw(view('a')), draw(view('b'))];
  draw(view('c'), one);
  equal([shown(one), shown(other)], ['<p>c</p>', '<p>b</p>']);
});

test('what stood in a container is replaced', () => {
  const element = place();
  element.append('old');
  equal(draw(html`<p>new</p>`, element).textContent, 'new');
});

// --- svg ---------------------------------------------------------------------------------------------

test('svg parts are made in the namespace of svg', () => {
  const element = draw(
    html`<svg viewBox="0 0 ${10} ${20}">${[1, 2].map((n) => svg`<path d=${`M0 ${n}`}></path>`)}</svg>`,
  );
  const paths = [...element.querySelectorAll('path')];
  equal(
    paths.map((path) => [path.namespaceURI, path.getAttribute('d')]),
    [
      ['http://www.w3.org/2000/svg', 'M0 1'],
      ['http://www.w3.org/2000/svg', 'M0 2'],
    ],
  );
  equal(element.querySelector('svg').getAttribute('viewBox'), '0 0 10 20');
  const both = draw(html`<svg>${svg`<g></g>${svg`<path></path>`}`}</svg>`);
  equal([both.querySelectorAll('svg > path').length, both.querySelectorAll('svg').length], [1, 1]);
  ok(both.querySelector('path') instanceof SVGPathElement);
});

// --- nodes -------------------------------------------------------------------------------------------

test('a node is shown as it is, a fragment with all that is in it', () => {
  const element = place();
  const view = (value) => html`<p>${value}</p>`;
  const node = document.createElement('em');
  draw(view(node), element);
  equal(changes(element, () => draw(view(node), element)).length, 0);
  const fragment = document.createRange().createContextualFragment ? document.createDocumentFragment() : null;
  fragment.append(document.createElement('b'), 'text');
  draw(view(fragment), element);
  equal(shown(element), '<p><b></b>text</p>');
  equal(changes(element, () => draw(view(fragment), element)).length, 0);
  draw(view('x'), element);
  equal(shown(element), '<p>x</p>');
  draw(view(fragment), element);
  equal(shown(element), '<p><b></b>text</p>', 'what was shown once can be shown again');
});

test('a node in a list keeps its place', () => {
  const [a, b] = [document.createElement('i'), document.createElement('b')];
  const element = draw([a, b]);
  equal(changes(element, () => draw([a, b], element)).length, 0);
  draw([b], element);
  equal(shown(element), '<b></b>');
});
