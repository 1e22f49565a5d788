/** core/router.js: URLs, and the way back after signing in. */

import { buildUrl, HOME_PATH, matchRoute, safeReturnUrl, ROUTES, startRouter } from '/web/core/router.js';
import { equal, ok, place, test } from './runner.js';

test('every address of the page is matched, with its tab', () => {
  for (const [path, route] of Object.entries(ROUTES))
    equal(matchRoute(path), { path, tab: null, ...route, query: {} });
  equal(matchRoute('/models').tab, 'hub');
  equal(matchRoute('/models/local').tab, 'local');
});

test('the root is the home; slashes at the end do not matter', () => {
  equal(matchRoute('/').path, HOME_PATH);
  equal(matchRoute('/models/').path, '/models');
  equal(matchRoute('/models/local//').tab, 'local');
});

test('what is not an address of the page is none', () => {
  for (const other of [
    '/api/models',
    '/v1/models',
    '/models/X',
    '/models/x/y',
    '/Models',
    '/assets/x/main.js',
    '/constructor',
    '/__proto__',
    '/toString',
  ]) {
    equal(matchRoute(other), null, other);
  }
});

test('a model has a page of its own', () => {
  equal(matchRoute('/models/qwen2.5-7b-instruct/?x=1'), {
    path: '/models/qwen2.5-7b-instruct',
    page: 'models',
    tab: 'model',
    id: 'qwen2.5-7b-instruct',
    query: { x: '1' },
  });
  equal(matchRoute('/models/local').tab, 'local');
});

test('the query is read, the fragment is not', () => {
  equal(matchRoute('/models?q=a+b%26c&status=Ready&q=last#x').query, { q: 'last', status: 'Ready' });
  equal(matchRoute('/models?').query, {});
  equal(matchRoute('https://llb.example/nodes?x=1'), {
    path: '/nodes',
    page: 'nodes',
    tab: null,
    query: { x: '1' },
  });
});

test('a hostile query is a mere text', () => {
  const { query } = matchRoute('/models?__proto__=x&constructor=y&q=%3Cscript%3E');
  equal(Object.hasOwn(query, '__proto__') ? query.constructor : 'y', 'y');
  equal(query.q, '<script>');
  equal({}.x, undefined);
});

test('an address is written with what is filled only', () => {
  equal(buildUrl('/models'), '/models');
  equal(buildUrl('/models', { q: '', tag: null, status: undefined }), '/models');
  equal(buildUrl('/models', { q: 'a b&c=d/ü', page: 0 }), '/models?q=a+b%26c%3Dd%2F%C3%BC&page=0');
});

test('what is written is what is read', () => {
  const query = { q: 'a+b &?#/%20"<>', status: 'Ready' };
  equal(matchRoute(buildUrl('/models', query)).query, query);
});

test('back to an address of this page', () => {
  for (const good of ['/models', '/models/local?q=1', '/nodes#x', '/playground?model=a%2Fb', '/'])
    equal(safeReturnUrl(good), good);
});

test('never to another site, to the login, or to the server', () => {
  const bad = [
    null,
    undefined,
    7,
    {},
    '',
    'models',
    'https://evil.example/',
    '//evil.example/models',
    '/\\evil.example/models',
    '\\\\evil.example',
    '/\t/evil.example/models',
    '/\n/evil.example',
    'javascript:alert(1)',
    'data:text/html,x',
    '/login',
    '/login?next=/login',
    '/login/',
    '/api/auth/logout',
    '/x',
    ' /models',
    '%2F%2Fevil.example',
    '/..//evil.example/models',
    '/models/../../..//evil.example',
    '/.//evil.example',
  ];
  for (const next of bad) equal(safeReturnUrl(next), HOME_PATH, String(next));
});

test('wherever it leads, it is this origin', () => {
  const pieces = [
    '/',
    '\\',
    '\t',
    '\n',
    '.',
    '..',
    '@',
    ':',
    '%2f',
    'evil.example',
    'models',
    '?',
    '#',
    'login',
  ];
  let seed = 7;
  const random = (below) => {
    seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((seed / 2 ** 32) * below);
  };
  for (let step = 0; step < 5000; step += 1) {
    const next = `/${Array.from({ length: random(6) }, () => pieces[random(pieces.length)]).join('')}`;
    const url = new URL(safeReturnUrl(next), location.href);
    equal(url.origin, location.origin, next);
    ok(matchRoute(url.href) && matchRoute(url.href).page !== 'login', next);
  }
});

// --- in a browser ------------------------------------------------------------------------------------

history.replaceState(null, '', '/models');
const heard = [];
const router = startRouter((route, { moved }) =>
  heard.push([route.path, JSON.stringify(route.query), moved]),
);
const calls = () => heard.splice(0);

function press(link, options = {}) {
  const event = new MouseEvent('click', { bubbles: true, cancelable: true, button: 0, ...options });
  // Keeps the browser from leaving the test.
  const stop = (late) => late.preventDefault();
  window.addEventListener('click', stop, { once: true });
  let taken = false;
  document.addEventListener('click', (late) => (taken = late.defaultPrevented), { once: true });
  link.dispatchEvent(event);
  return taken;
}

function link(href, attributes = {}) {
  const element = document.createElement('a');
  element.href = href;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  const inner = document.createElement('span');
  element.append(inner);
  place().append(element);
  return element;
}

test('a change of the query is told as no move', () => {
  router.show();
  router.go('/models?q=a', { replace: true });
  router.go('/models?q=a');
  router.go('/models/local');
  equal(calls(), [
    ['/models', '{}', true],
    ['/models', '{"q":"a"}', false],
    ['/models/local', '{}', true],
  ]);
  equal(location.pathname, '/models/local');
});

test('replace leaves no step to go back to', () => {
  const steps = history.length;
  router.go('/models?q=b', { replace: true });
  equal(history.length, steps);
  router.go('/nodes');
  equal(history.length, steps + 1);
  calls();
});

test('Back is followed', async () => {
  router.go('/nodes', { replace: true });
  router.go('/requests');
  calls();
  const back = new Promise((resolve) => addEventListener('popstate', resolve, { once: true }));
  history.back();
  await back;
  equal(calls(), [['/nodes', '{}', true]]);
});

test('a press on a link of the page is followed, also on what is in it', () => {
  const element = link('/access?x=1');
  ok(press(element.firstChild));
  equal(calls(), [['/access', '{"x":"1"}', true]]);
});

test('a fragment of another page does not keep it from being opened', () => {
  router.go('/nodes', { replace: true });
  calls();
  ok(press(link('/access#x')));
  equal(
    calls().map(([path]) => path),
    ['/access'],
  );
});

test('other presses are left to the browser', () => {
  const left = (element, options) => {
    ok(!press(element, options), JSON.stringify([element.href, options]));
    equal(calls(), []);
  };
  for (const key of ['metaKey', 'ctrlKey', 'shiftKey', 'altKey']) left(link('/nodes'), { [key]: true });
  left(link('/nodes'), { button: 1 });
  left(link('/nodes', { target: '_blank' }));
  left(link('/nodes', { download: '' }));
  left(link('https://other.example/nodes'));
  left(link('/v1/models'));
  left(link('/access#main'));
  left(place());
});

test('a link that another handler has taken is left alone', () => {
  const element = link('/nodes');
  element.addEventListener('click', (event) => event.preventDefault());
  press(element);
  equal(calls(), []);
});
