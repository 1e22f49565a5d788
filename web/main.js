/** Application: session, routing and rendering. */

import { html, render } from './lib/html.js';
import { announcements } from './core/live-region.js';
import { createApi } from './core/api.js';
import { f, pickLocale, t, loadLocale, loadTexts } from './core/i18n.js';
import { buildUrl, HOME_PATH, ownUrl, safeReturnUrl, startRouter } from './core/router.js';
import { isDark, readPreference, savePreference, setTheme } from './core/preferences.js';
import { createStore } from './core/store.js';
import { loadStyles } from './core/styles.js';
import { createDataSync } from './core/data-sync.js';
import { busySlots } from './components/engine-status.js';
import { dismissDialogs } from './components/forms/dialog.js';
import { alertBox, errorMessage } from './components/feedback.js';
import { signedOutShell, shell } from './components/shell.js';
import { createToastList } from './components/toast-list.js';
import * as login from './pages/login/page.js';
import * as models from './pages/models/page.js';

/** Module of each page, and the texts and style sheets that it needs apart from those of every page. */
const PAGES = {
  login: { load: () => login },
  models: { load: () => models },
  playground: {
    load: () => import('./pages/playground/page.js'),
    texts: ['playground', 'endpoints'],
    styles: ['playground'],
  },
  nodes: {
    load: () => import('./pages/nodes/page.js'),
    texts: ['nodes', 'endpoints'],
    styles: ['charts', 'nodes'],
  },
  endpoints: {
    load: () => import('./pages/endpoints/page.js'),
    texts: ['nodes', 'endpoints', 'budgets'],
    styles: ['nodes', 'budgets', 'endpoints'],
  },
  logs: { load: () => import('./pages/logs/page.js'), texts: ['logs'], styles: ['logs'] },
  requests: {
    load: () => import('./pages/requests/page.js'),
    texts: ['requests'],
    styles: ['charts', 'requests'],
  },
  access: {
    load: () => import('./pages/access/page.js'),
    texts: ['access', 'budgets'],
    styles: ['budgets', 'access'],
  },
  settings: { load: () => import('./pages/settings/page.js'), texts: ['settings'], styles: ['settings'] },
  docs: { load: () => import('./pages/docs/page.js'), texts: ['docs'], styles: ['docs'] },
};

// Until then the opened page has the connection to itself.
const PRELOAD_DELAY_MS = 2_000;

// Also for visitors who are not signed in.
const PUBLIC_PAGES = new Set(['login', 'docs']);

const store = createStore();
const api = createApi({ onSignedOut: verifySession });
const sync = createDataSync({ api, store, onUpgrade: () => location.reload() });
const toasts = createToastList(store);
const root = document.getElementById('root');

let route = null;
// Current page: {name, title, view, update?, close?}.
let page = null;
// Scroll positions by URL, for the way back.
const scrollPositions = new Map();
let scrollPending = null;
// Why the page could not be opened.
let openError = null;
let focusPending = false;
let announcedModels = null;
let verifyingSession = false;
let preloading = false;

/** Interface for pages. */
const app = {
  api,
  store,
  sync,
  requestRender: store.requestRender,
  go: (to, options) => router.go(to, options),
  showToast: (toast) => store.dispatch({ type: 'showToast', toast }),
  can: (scope) => Boolean(store.state.me?.scopes.some((each) => each === scope || each === 'admin')),
  signIn: (username, password) => openSession('/api/auth/login', { username, password }),
  setUp: (token, password) => openSession('/api/auth/setup', { token, new_password: password }),
  async refreshMe() {
    store.dispatch({ type: 'me', me: await api.get('/api/auth/me') });
  },
  async setLocale(name) {
    savePreference('locale', name);
    await loadLocale(name);
    const { id } = document.activeElement;
    // Every text changes.
    render(null, root);
    // Synchronously, so that scroll positions are kept.
    draw(store.state);
    document.getElementById(id)?.focus({ preventScroll: true });
  },
};

async function openSession(path, credentials) {
  const { ended_keys: endedKeys } = await api.post(path, credentials);
  await startSession();
  router.go(safeReturnUrl(route.query.next), { replace: true });
  if (endedKeys.length)
    app.showToast({ kind: 'info', text: t('password.ended_keys', { keys: endedKeys.join(', ') }) });
}

async function startSession() {
  await app.refreshMe();
  sync.start();
}

/**
 * Checks the session after a 401. A request sent while the password was being changed still carries the
 * previous cookie, so a single 401 does not mean that the session has ended.
 */
async function verifySession() {
  if (verifyingSession || !store.state.me) return;
  verifyingSession = true;
  try {
    await app.refreshMe();
  } catch (error) {
    if (error.status === 401 && store.state.me) endSession({ sessionEnded: true });
  } finally {
    verifyingSession = false;
  }
}

function endSession({ sessionEnded }) {
  const next = route?.page === 'login' ? route.query.next : ownUrl(location);
  sync.stop();
  store.dispatch({ type: 'signedOut', sessionEnded });
  router.go(buildUrl('/login', { next: next === HOME_PATH ? '' : next }), { replace: true });
}

async function signOut() {
  try {
    await api.post('/api/auth/logout');
  } catch (error) {
    // Report a failure: the user must not believe to be signed out while the session exists.
    if (error.status !== 401) return app.showToast({ kind: 'error', text: errorMessage(error) });
  }
  if (store.state.me) endSession({ sessionEnded: false });
}

// --- pages -------------------------------------------------------------------------------------------

const router = startRouter(async (to, { moved, back }) => {
  if (store.state.me === null && !PUBLIC_PAGES.has(to.page)) return endSession({ sessionEnded: false });
  if (store.state.me && to.page === 'login')
    return router.go(safeReturnUrl(to.query.next), { replace: true });
  const before = route;
  if (before) scrollPositions.set(urlOf(before), scrollY);
  route = to;
  if (before?.page === to.page && page) page.update?.(to);
  else await openPage(to);
  if (moved && before) {
    scrollPending = back ? (scrollPositions.get(urlOf(to)) ?? 0) : 0;
    // Switching tabs keeps the focus on the tab.
    focusPending ||= before.page !== to.page || to.tab === 'model' || before.tab === 'model';
  }
  store.requestRender();
});

const urlOf = ({ path, query }) => buildUrl(path, query);

/** Module of a page, once its texts and styles are there as well. */
async function loadPage(name) {
  const { load, texts = [], styles = [] } = PAGES[name];
  const [module] = await Promise.all([load(), loadTexts(texts), loadStyles(styles)]);
  return module;
}

/**
 * Loads the other pages while nothing else happens: they open at once, and when the server is gone. Not
 * where the user saves data, nor while the page is hidden.
 */
async function preloadPages() {
  if (navigator.connection?.saveData) return;
  for (const name of Object.keys(PAGES)) {
    await untilVisible();
    await new Promise((done) => (globalThis.requestIdleCallback ?? setTimeout)(done));
    // Opening the page tries again, and reports the error.
    await loadPage(name)
      .then((module) => module.preload?.())
      .catch(() => {});
  }
}

async function untilVisible() {
  while (document.hidden)
    await new Promise((done) => document.addEventListener('visibilitychange', done, { once: true }));
}

async function openPage(to) {
  dismissDialogs();
  page?.close?.();
  page = null;
  openError = null;
  store.requestRender();
  try {
    const module = await loadPage(to.page);
    // The user has moved on to another page.
    if (route !== to) return;
    page = { name: to.page, title: module.title, ...module.open(app, to) };
  } catch (error) {
    if (route === to) openError = error;
  }
}

function draw(state) {
  if (!route || state.me === undefined) return;
  const content =
    page?.view(state, route) ?? (openError && alertBox(errorMessage(openError), reloadButton()));
  const name = page?.title(route, state);
  document.title = `${downloadProgress(state)}${name ? `${name} · llb` : 'llb'}`;
  const focused = document.activeElement;
  const place = focused?.closest('[data-model], article, section');
  render(html`${frame(state, content)} ${toasts.view(state.toasts)}`, root);
  if (place && !focused.isConnected) restoreFocus(place);
  updateLiveRegion(state);
  if (scrollPending !== null && page) {
    scrollTo(0, scrollPending);
    scrollPending = null;
  }
  if (!preloading && state.models && page) {
    preloading = true;
    setTimeout(preloadPages, PRELOAD_DELAY_MS);
  }
  if (focusPending && page) {
    const heading = root.querySelector('[autofocus]') ?? root.querySelector('h1[tabindex]');
    // The heading comes with the content.
    if (!heading && root.querySelector('.skeletons')) return;
    focusPending = false;
    const place = heading ?? document.getElementById('main');
    place?.focus({ preventScroll: !place.matches('[autofocus]') });
  }
}

/** Keeps the keyboard position when the focused button was replaced (Pull became Cancel). */
function restoreFocus(before) {
  const { model } = before.dataset;
  // A model moves to another group when its status changes.
  const moved = model && root.querySelector(`article[data-model="${CSS.escape(model)}"]`);
  const place = before.isConnected && before.hasAttribute('tabindex') ? before : moved;
  (place ?? root.querySelector('h1[tabindex]'))?.focus({ preventScroll: true });
}

const reloadButton = () =>
  html`<button
        type="button"
        class="button small"
        @click=${() => location.reload()}
      >${t('common.reload')}</button>`;

function frame(state, content) {
  if (route.page === 'login') return content;
  if (!state.me) return signedOutShell(content, route.path);
  return shell({
    state,
    route,
    counts: navCounts(state),
    content,
    onSignOut: signOut,
    onReconnect: sync.reconnect,
    onTheme() {
      setTheme(isDark() ? 'light' : 'dark');
      store.requestRender();
    },
  });
}

const busySlotCount = (nodes) =>
  nodes
    .filter(({ status }) => status === 'online')
    .flatMap(({ engines }) => engines.map(busySlots))
    .reduce(sum, 0);

const DOWNLOADS = new Set(['Registered', 'Downloading']);

/** Badges of the navigation: downloads, offline nodes, running requests of others. */
function navCounts({ models: known, nodes, ownAnswers }) {
  const nodeList = [...(nodes?.values() ?? [])];
  const counts = {
    models: {
      count: [...(known?.values() ?? [])].filter(({ status }) => DOWNLOADS.has(status)).length,
      key: 'nav.count.downloads',
    },
    nodes: {
      count: nodeList.filter(({ status }) => status === 'offline').length,
      key: 'nav.count.offline',
      kind: 'bad',
    },
    requests: {
      // Engine states are pushed immediately, whereas request counts come with the next heartbeat.
      count: Math.max(0, busySlotCount(nodeList) - ownAnswers),
      key: 'nav.count.running',
    },
  };
  return Object.fromEntries(Object.entries(counts).filter(([, { count }]) => count));
}

/** Progress of all downloads for the title of the window, which is seen from another tab; else ''. */
function downloadProgress({ models: known }) {
  const found = [...(known?.values() ?? [])].filter(
    ({ status, total_bytes: total }) => status === 'Downloading' && total,
  );
  if (!found.length) return '';
  const sumOf = (field) => found.reduce((total, item) => total + (item[field] ?? 0), 0);
  return `(${f.percent(sumOf('downloaded_bytes') / sumOf('total_bytes'))}) `;
}

const sum = (a, b) => a + b;

function updateLiveRegion(state) {
  const messages = announcements(announcedModels, state.models);
  announcedModels = state.models;
  if (messages.length)
    document.getElementById('live-region').textContent = messages
      .map(({ key, values }) => t(key, values))
      .join(' ');
}

// --- the beginning -----------------------------------------------------------------------------------

store.subscribe(draw);
// These are independent, and the first paint needs both.
const sessionStarted = startSession();
// Handled below, once the texts are loaded.
sessionStarted.catch(() => {});
await loadLocale(pickLocale(readPreference('locale'), navigator.languages));
try {
  await sessionStarted;
} catch (error) {
  // 403: the session is of the default password, which does not work from here.
  if (error.status === 401 || error.status === 403) {
    sync.stop();
    store.dispatch({ type: 'me', me: null });
  } else render(html`<main class="login">${alertBox(errorMessage(error), reloadButton())}</main>`, root);
}
router.show();
