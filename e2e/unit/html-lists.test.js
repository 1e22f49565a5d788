/** lib/html.js: lists and memos keep their elements. */

import { each, html, memo, svg } from '/web/lib/html.js';
import { changes, draw, shown } from './drawing.js';
import { equal, fails, ok, place, test } from './runner.js';

// --- lists -------------------------------------------------------------------------------------------

test('a list without keys is matched by position', () => {
  const view = (items) => items.map((item) => html`<li>${item}</li>`);
  const element = draw(view(['a', 'b', 'c']));
  const [first] = element.children;
  draw(view(['x', 'y']), element);
  equal(shown(element), '<li>x</li><li>y</li>');
  ok(element.children[0] === first);
});

test('a list of texts is not written again', () => {
  const element = draw(['a', 'b', null]);
  equal(changes(element, () => draw(['a', 'b', null], element)).length, 0);
  equal(changes(element, () => draw(['a', 'c', null], element)).length, 1);
});

test('items keep their elements when the order changes', () => {
  const view = (names) =>
    each(
      names,
      (name) => name,
      (name) => html`<li>${name}</li>`,
    );
  const element = draw(view(['a', 'b', 'c', 'd']));
  const before = new Map([...element.children].map((child) => [child.textContent, child]));
  for (const order of ['dcba', 'bd', 'abcd', 'dabc', 'bcda', 'acbd']) {
    draw(view([...order]), element);
    equal(element.textContent, order);
  }
  draw(view(['d', 'a', 'c']), element);
  const after = [...element.children];
  ok(after[1] !== before.get('a'), 'an item that was gone is a new one');
});

test('an item that moves keeps its element, the focus and what was selected', () => {
  const view = (names) =>
    each(
      names,
      (name) => name,
      (name) => html`<input aria-label=${name} .value=${`value of ${name}`} />`,
    );
  const element = draw(view(['a', 'b', 'c']));
  const input = element.children[0];
  let blurred = 0;
  input.addEventListener('blur', () => {
    blurred += 1;
  });
  input.focus();
  input.setSelectionRange(2, 5);
  for (const order of ['bca', 'cab', 'abc', 'bac', 'a', 'xya', 'axy']) {
    draw(view([...order]), element);
    ok(document.activeElement === input, `the focus is lost at ${order}`);
    equal([input.selectionStart, input.selectionEnd], [2, 5]);
  }
  equal(blurred, 0);
});

test('a transition goes on while its item moves', async () => {
  const view = (names) =>
    each(
      names,
      (name) => name,
      (name) => html`<p>${name}</p>`,
    );
  const element = draw(view(['a', 'b', 'c']));
  const animation = element.children[0].animate([{ opacity: 0 }, { opacity: 1 }], 60_000);
  await animation.ready;
  draw(view(['b', 'c', 'a']), element);
  equal(element.children[2].getAnimations().length, 1);
});

test('an item at its place is not moved', () => {
  const view = (names) =>
    each(
      names,
      (name) => name,
      (name) => html`<li>${name}</li>`,
    );
  const element = draw(view(['a', 'b', 'c']));
  equal(changes(element, () => draw(view(['a', 'b', 'c']), element)).length, 0);
  equal(changes(element, () => draw(view(['a', 'b', 'c', 'd']), element)).length, 1);
  equal(changes(element, () => draw(view(['a', 'c', 'd']), element)).length, 1);
});

test('two items with the same key are an error', async () => {
  await fails(
    () =>
      draw(
        each(
          [1, 2, 1],
          (n) => n,
          (n) => html`<i>${n}</i>`,
        ),
      ),
    /the key 1/,
  );
});

test('keys are told apart by their kind', () => {
  equal(
    draw(
      each(
        [1, '1', null, undefined],
        (n) => n,
        (n) => html`<i>${String(n)}</i>`,
      ),
    ).childElementCount,
    4,
  );
});

test('an item has one root element', async () => {
  await fails(
    () =>
      draw(
        each(
          [1],
          (n) => n,
          (n) => html`<i>${n}</i><b></b>`,
        ),
      ),
    /one root/,
  );
  await fails(() => draw([html`<i></i>${1}`]), /one root/);
});

test('an item may become another template, or a text', () => {
  const view = (items) =>
    each(
      items,
      ({ id }) => id,
      ({ what }) => what,
    );
  const element = draw(
    view([
      { id: 1, what: html`<i>1</i>` },
      { id: 2, what: 'two' },
    ]),
  );
  draw(
    view([
      { id: 1, what: 'one' },
      { id: 2, what: html`<b>2</b>` },
    ]),
    element,
  );
  equal(shown(element), 'one<b>2</b>');
});

test('lists in lists', () => {
  const view = (rows) =>
    html`<table><tbody>${each(
      rows,
      ([name]) => name,
      ([name, cells]) =>
        html`<tr>${each(
          cells,
          (cell) => cell,
          (cell) => html`<td>${cell}</td>`,
        )}</tr>`,
    )}</tbody></table>`;
  const element = draw(
    view([
      ['a', [1, 2]],
      ['b', [3]],
    ]),
  );
  draw(
    view([
      ['b', [4, 3]],
      ['a', [2]],
    ]),
    element,
  );
  equal(
    [...element.querySelectorAll('tr')].map((row) => row.textContent),
    ['43', '2'],
  );
});

test('a thousand random changes of a list end as a naive model says', () => {
  let seed = 20_261_121;
  const random = (below) => {
    seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((seed / 2 ** 32) * below);
  };
  const items = [];
  const elements = new Map();
  let next = 0;
  const view = () =>
    html`<ol><li>head</li>${each(
      items,
      ({ id }) => id,
      ({ id, text }) => html`<li data-id=${id}>${text}</li>`,
    )}<li>foot</li></ol>`;
  const element = place();
  const operations = [
    () => items.splice(random(items.length + 1), 0, { id: (next += 1), text: `t${next}` }),
    () => items.splice(random(items.length), 1),
    () => items.length && items.splice(random(items.length), 0, ...items.splice(random(items.length), 1)),
    () => items.reverse(),
    () => items.sort((a, b) => a.text.localeCompare(b.text)),
    () => items.length && (items[random(items.length)].text = `t${random(1000)}`),
    () => items.push(...Array.from({ length: random(9) }, () => ({ id: (next += 1), text: `t${next}` }))),
    () => items.splice(random(items.length), random(7)),
    () => items.sort(() => random(3) - 1),
  ];
  for (let step = 0; step < 1000; step += 1) {
    operations[random(operations.length)]();
    draw(view(), element);
    const rows = [...element.querySelectorAll('li')];
    equal(
      rows.map((row) => row.textContent),
      ['head', ...items.map(({ text }) => text), 'foot'],
      `step ${step}`,
    );
    for (const row of rows.slice(1, -1)) {
      const id = Number(row.dataset.id);
      ok(!elements.has(id) || elements.get(id) === row, `item ${id} has got another element at step ${step}`);
      elements.set(id, row);
    }
  }
  ok(next > 500, `only ${next} items were ever made`);
});

// --- memo --------------------------------------------------------------------------------------------

test('a memo is rebuilt only when a dependency changes', () => {
  let made = 0;
  const view = (...deps) =>
    html`<p>${memo(deps, () => {
      made += 1;
      return html`<b>${deps.join()}</b>`;
    })}</p>`;
  const element = draw(view(1, 'a'));
  draw(view(1, 'a'), element);
  equal(made, 1);
  draw(view(1, 'b'), element);
  equal([made, element.textContent], [2, '1,b']);
  draw(view(NaN, 'b'), element);
  draw(view(NaN, 'b'), element);
  equal(made, 3);
  draw(view(NaN, 'b', 'more'), element);
  equal(made, 4);
});

test('a memo is rebuilt after other content replaced it', () => {
  let made = 0;
  const remembered = memo([1], () => {
    made += 1;
    return 'x';
  });
  const view = (value) => html`<p>${value}</p>`;
  const element = draw(view(remembered));
  draw(view('other'), element);
  draw(view(remembered), element);
  equal([made, element.textContent], [2, 'x']);
});

test('an item of a list may be a memo', () => {
  const made = [];
  const view = (items) =>
    each(
      items,
      ({ id }) => id,
      (item) =>
        memo([item], () => {
          made.push(item.id);
          return html`<li>${item.text}</li>`;
        }),
    );
  const [a, b] = [
    { id: 'a', text: '1' },
    { id: 'b', text: '2' },
  ];
  const element = draw(view([a, b]));
  draw(view([b, a]), element);
  equal(made, ['a', 'b']);
  draw(view([b, { id: 'a', text: '3' }]), element);
  equal([made, element.textContent], [['a', 'b', 'a'], '23']);
});

test('a memo is rebuilt after other content failed in its place', async () => {
  const view = (text, run) => html`<p>${text}${run && memo([run], run)}</p>`;
  const broken = () => {
    throw new Error('broken view');
  };
  for (const wrap of [(value) => [value], (value) => value]) {
    const element = place();
    draw(wrap(memo([1], () => view('a', null))), element);
    await fails(() => draw(wrap(view('b', broken)), element), /broken view/);
    draw(wrap(memo([1], () => view('a', null))), element);
    equal(element.textContent, 'a');
  }
});

test('the whole page drawn again with the same values changes nothing', () => {
  const click = () => {};
  const rows = Array.from({ length: 30 }, (_, id) => ({ id, name: `model ${id}` }));
  const view = () => html`
    <main class="page ${'wide'}" lang=${'en'}>
      ${null} ${'text'} ${7}
      <input .value=${''} ?required=${true} @input=${click} />
      ${each(
        rows,
        ({ id }) => id,
        ({ id, name }) =>
          html`<article id=${`m${id}`} --share=${id / 30}><h2>${name}</h2>${id % 2 ? html`<b>odd</b>` : 'even'}</article>`,
      )}
      ${['a', 'b'].map((text) => html`<li>${text}</li>`)} ${['a', 1, null]}
      <svg viewBox="0 0 ${1} ${2}">${[1].map((n) => svg`<path d=${`M${n}`}></path>`)}</svg>
    </main>`;
  const element = draw(view());
  equal(changes(element, () => draw(view(), element)).length, 0);
});
