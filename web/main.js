/** The page: who is signed in, which page is open, and one place where everything is drawn. */

import { html, render } from './lib/html.js';
import { announcements } from './core/live-region.js';
import { makeApi } from './core/api.js';
import { choose, t, useLocale } from './core/i18n.js';
import { address, HOME, returnAddress, startRouter } from './core/router.js';
import { recall, remember } from './core/preferences.js';
import { makeStore } from './core/store.js';
import { makeSync } from './core/data-sync.js';
import { busyOf } from './components/engine-status.js';
import { dismissDialogs } from './components/forms/dialog.js';
import { alertBox, explain } from './components/feedback.js';
import { porch, shell } from './components/shell.js';
import { makeToasts } from './components/toast-list.js';
import * as login from './pages/login/page.js';
import * as models from './pages/models/page.js';

const PAGES = {
  login: () => login,
  models: () => models,
  playground: () => import('./pages/playground/page.js'),
  nodes: () => import('./pages/nodes/page.js'),
  requests: () => import('./pages/requests/page.js'),
  access: () => import('./pages/access/page.js'),
  settings: () => import('./pages/settings/page.js'),
  docs: () => import('./pages/docs/page.js'),
};

const OPEN = new Set(['login', 'docs']); // for whoever is not signed in, too

const store = makeStore();
const api = makeApi({ onSignedOut: makeSure });
const sync = makeSync({ api, store, onUpgrade: () => location.reload() });
const toasts = makeToasts(store);
const root = document.getElementById('root');

let route = null;
let page = null; // {name, title, view, update?, close?} of the page that is open
let failure = null; // why it could not be opened
let focusSoon = false;
let announced = null;
let doubting = false;

/** What a page may use of the rest. */
const app = {
  api,
  store,
  sync,
  touch: store.touch,
  go: (to, options) => router.go(to, options),
  notify: (notice) => store.dispatch({ type: 'notice', notice }),
  can: (scope) => Boolean(store.state.me?.scopes.some((each) => each === scope || each === 'admin')),
  async signIn(username, password) {
    await api.post('/api/auth/login', { username, password });
    await enter();
    router.go(returnAddress(route.query.next), { replace: true });
  },
  async refreshMe() {
    store.dispatch({ type: 'me', me: await api.get('/api/auth/me') });
  },
  async chooseLocale(name) {
    remember('locale', name);
    await useLocale(name);
    const { id } = document.activeElement;
    render(null, root); // every text is another one
    draw(store.state); // at once: what is scrolled stays where it is
    document.getElementById(id)?.focus({ preventScroll: true });
  },
};

async function enter() {
  // Whoever was signed in when the page was last open most likely is so still: then nothing waits for the answer.
  if (recall('signedIn')) sync.start();
  await app.refreshMe();
  remember('signedIn', true);
  sync.start();
}

/**
 * A request was refused. That need not be the end: one that was on its way while the password was changed had the cookie
 * of before.
 */
async function makeSure() {
  if (doubting || !store.state.me) return;
  doubting = true;
  try {
    await app.refreshMe();
  } catch (error) {
    if (error.status === 401 && store.state.me) leave({ ended: true });
  } finally {
    doubting = false;
  }
}

function leave({ ended }) {
  const next = route?.page === 'login' ? route.query.next : location.pathname + location.search;
  forget();
  store.dispatch({ type: 'signedOut', ended });
  router.go(address('/login', { next: next === HOME ? '' : next }), { replace: true });
}

function forget() {
  remember('signedIn', null);
  sync.stop();
}

async function signOut() {
  try {
    await api.post('/api/auth/logout');
  } catch (error) {
    // Whoever is told to be logged out must be.
    if (error.status !== 401) return app.notify({ kind: 'error', text: explain(error) });
  }
  if (store.state.me) leave({ ended: false });
}

// --- pages -------------------------------------------------------------------------------------------

const router = startRouter(async (to, { moved }) => {
  if (store.state.me === null && !OPEN.has(to.page)) return leave({ ended: false });
  if (store.state.me && to.page === 'login') return router.go(returnAddress(to.query.next), { replace: true });
  const before = route;
  route = to;
  if (before?.page === to.page && page) page.update?.(to);
  else await openPage(to);
  if (moved && before) {
    scrollTo(0, 0);
    focusSoon ||= before.page !== to.page; // from tab to tab it stays on the tab
  }
  store.touch();
});

async function openPage(to) {
  dismissDialogs();
  page?.close?.();
  page = null;
  failure = null;
  store.touch();
  try {
    const module = await PAGES[to.page]();
    if (route !== to) return; // another one was asked for meanwhile
    page = { name: to.page, title: module.title, ...module.open(app, to) };
  } catch (error) {
    failure = error;
  }
}

function draw(state) {
  if (!route || state.me === undefined) return;
  const content = page?.view(state, route) ?? (failure && alertBox(explain(failure), reloadButton()));
  const name = page?.title(route);
  document.title = name ? `${name} · llb` : 'llb';
  const focused = document.activeElement;
  const place = focused?.closest('article, section');
  render(html`${framed(state, content)} ${toasts.view(state.notices)}`, root);
  if (place && !focused.isConnected) keepPlace(place);
  announce(state);
  if (focusSoon && page) {
    focusSoon = false;
    const place = root.querySelector('[autofocus]') ?? root.querySelector('h1[tabindex]') ?? document.getElementById('main');
    place?.focus({ preventScroll: !place.matches('[autofocus]') });
  }
}

/** The pressed button is gone (Pull has become Cancel): whoever uses the keyboard goes on from where it was. */
function keepPlace(before) {
  const place = before.isConnected && before.hasAttribute('tabindex') ? before : null;
  (place ?? root.querySelector('h1[tabindex]'))?.focus({ preventScroll: true });
}

const reloadButton = () =>
  html`<button type="button" class="button small" @click=${() => location.reload()}>${t('common.reload')}</button>`;

function framed(state, content) {
  if (route.page === 'login') return content;
  if (!state.me) return porch(content, location.pathname);
  return shell({
    state,
    route,
    counts: counts(state),
    content,
    onSignOut: signOut,
    onReconnect: sync.reconnect,
  });
}

/** What stands beside the links: pulls under way, nodes that are away, answers being written. */
function counts({ models: known, nodes }) {
  const machines = [...(nodes?.values() ?? [])];
  return {
    models: [...(known?.values() ?? [])].filter(({ status }) => status === 'Downloading').length,
    nodes: machines.filter(({ status }) => status === 'offline').length,
    // Engines say at once when they are done; the count of requests comes with the next heartbeat.
    requests: machines.filter(({ status }) => status === 'online').flatMap(({ engines }) => engines.map(busyOf)).reduce(sum, 0),
  };
}

const sum = (a, b) => a + b;

function announce(state) {
  const told = announcements(announced, state.models);
  announced = state.models;
  if (told.length) document.getElementById('said').textContent = told.map(({ key, values }) => t(key, values)).join(' ');
}

// --- the beginning -----------------------------------------------------------------------------------

store.subscribe(draw);
// Neither needs the other, and the first paint needs both.
const entered = enter();
entered.catch(() => {}); // looked at below, once there are words for it
await useLocale(choose(recall('locale'), navigator.languages));
try {
  await entered;
} catch (error) {
  if (error.status === 401) {
    forget();
    store.dispatch({ type: 'me', me: null });
  } else render(html`<main class="login">${alertBox(explain(error), reloadButton())}</main>`, root);
}
router.show();
