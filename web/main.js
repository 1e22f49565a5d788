/** The page: who is signed in, which page is open, and one place where everything is drawn. */

import { html, render } from './lib/html.js';
import { announcements } from './core/live-region.js';
import { createApi } from './core/api.js';
import { pickLocale, t, loadLocale } from './core/i18n.js';
import { buildUrl, HOME_PATH, safeReturnUrl, startRouter } from './core/router.js';
import { readPreference, savePreference } from './core/preferences.js';
import { createStore } from './core/store.js';
import { createDataSync } from './core/data-sync.js';
import { busySlots } from './components/engine-status.js';
import { dismissDialogs } from './components/forms/dialog.js';
import { alertBox, errorMessage } from './components/feedback.js';
import { signedOutShell, shell } from './components/shell.js';
import { createToastList } from './components/toast-list.js';
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

const PUBLIC_PAGES = new Set(['login', 'docs']); // for whoever is not signed in, too

const store = createStore();
const api = createApi({ onSignedOut: verifySession });
const sync = createDataSync({ api, store, onUpgrade: () => location.reload() });
const toasts = createToastList(store);
const root = document.getElementById('root');

let route = null;
let page = null; // {name, title, view, update?, close?} of the page that is open
let openError = null; // why it could not be opened
let focusPending = false;
let announcedModels = null;
let verifyingSession = false;

/** What a page may use of the rest. */
const app = {
  api,
  store,
  sync,
  requestRender: store.requestRender,
  go: (to, options) => router.go(to, options),
  showToast: (toast) => store.dispatch({ type: 'showToast', toast }),
  can: (scope) => Boolean(store.state.me?.scopes.some((each) => each === scope || each === 'admin')),
  async signIn(username, password) {
    await api.post('/api/auth/login', { username, password });
    await startSession();
    router.go(safeReturnUrl(route.query.next), { replace: true });
  },
  async refreshMe() {
    store.dispatch({ type: 'me', me: await api.get('/api/auth/me') });
  },
  async setLocale(name) {
    savePreference('locale', name);
    await loadLocale(name);
    const { id } = document.activeElement;
    render(null, root); // every text is another one
    draw(store.state); // at once: what is scrolled stays where it is
    document.getElementById(id)?.focus({ preventScroll: true });
  },
};

async function startSession() {
  // Whoever was signed in when the page was last open most likely is so still: then nothing waits for the answer.
  if (readPreference('signedIn')) sync.start();
  await app.refreshMe();
  savePreference('signedIn', true);
  sync.start();
}

/**
 * A request was refused. That need not be the end: one that was on its way while the password was changed had the cookie
 * of before.
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
  const next = route?.page === 'login' ? route.query.next : location.pathname + location.search;
  clearSession();
  store.dispatch({ type: 'signedOut', sessionEnded });
  router.go(buildUrl('/login', { next: next === HOME_PATH ? '' : next }), { replace: true });
}

function clearSession() {
  savePreference('signedIn', null);
  sync.stop();
}

async function signOut() {
  try {
    await api.post('/api/auth/logout');
  } catch (error) {
    // Whoever is told to be logged out must be.
    if (error.status !== 401) return app.showToast({ kind: 'error', text: errorMessage(error) });
  }
  if (store.state.me) endSession({ sessionEnded: false });
}

// --- pages -------------------------------------------------------------------------------------------

const router = startRouter(async (to, { moved }) => {
  if (store.state.me === null && !PUBLIC_PAGES.has(to.page)) return endSession({ sessionEnded: false });
  if (store.state.me && to.page === 'login') return router.go(safeReturnUrl(to.query.next), { replace: true });
  const before = route;
  route = to;
  if (before?.page === to.page && page) page.update?.(to);
  else await openPage(to);
  if (moved && before) {
    scrollTo(0, 0);
    focusPending ||= before.page !== to.page; // from tab to tab it stays on the tab
  }
  store.requestRender();
});

async function openPage(to) {
  dismissDialogs();
  page?.close?.();
  page = null;
  openError = null;
  store.requestRender();
  try {
    const module = await PAGES[to.page]();
    if (route !== to) return; // another one was asked for meanwhile
    page = { name: to.page, title: module.title, ...module.open(app, to) };
  } catch (error) {
    openError = error;
  }
}

function draw(state) {
  if (!route || state.me === undefined) return;
  const content = page?.view(state, route) ?? (openError && alertBox(errorMessage(openError), reloadButton()));
  const name = page?.title(route);
  document.title = name ? `${name} · llb` : 'llb';
  const focused = document.activeElement;
  const place = focused?.closest('article, section');
  render(html`${frame(state, content)} ${toasts.view(state.toasts)}`, root);
  if (place && !focused.isConnected) restoreFocus(place);
  updateLiveRegion(state);
  if (focusPending && page) {
    focusPending = false;
    const place = root.querySelector('[autofocus]') ?? root.querySelector('h1[tabindex]') ?? document.getElementById('main');
    place?.focus({ preventScroll: !place.matches('[autofocus]') });
  }
}

/** The pressed button is gone (Pull has become Cancel): whoever uses the keyboard goes on from where it was. */
function restoreFocus(before) {
  const place = before.isConnected && before.hasAttribute('tabindex') ? before : null;
  (place ?? root.querySelector('h1[tabindex]'))?.focus({ preventScroll: true });
}

const reloadButton = () =>
  html`<button type="button" class="button small" @click=${() => location.reload()}>${t('common.reload')}</button>`;

function frame(state, content) {
  if (route.page === 'login') return content;
  if (!state.me) return signedOutShell(content, location.pathname);
  return shell({
    state,
    route,
    counts: navCounts(state),
    content,
    onSignOut: signOut,
    onReconnect: sync.reconnect,
  });
}

/** What stands beside the links: pulls under way, nodes that are away, answers being written. */
function navCounts({ models: known, nodes }) {
  const nodeList = [...(nodes?.values() ?? [])];
  return {
    models: [...(known?.values() ?? [])].filter(({ status }) => status === 'Downloading').length,
    nodes: nodeList.filter(({ status }) => status === 'offline').length,
    // Engines say at once when they are done; the count of requests comes with the next heartbeat.
    requests: nodeList.filter(({ status }) => status === 'online').flatMap(({ engines }) => engines.map(busySlots)).reduce(sum, 0),
  };
}

const sum = (a, b) => a + b;

function updateLiveRegion(state) {
  const messages = announcements(announcedModels, state.models);
  announcedModels = state.models;
  if (messages.length) document.getElementById('live-region').textContent = messages.map(({ key, values }) => t(key, values)).join(' ');
}

// --- the beginning -----------------------------------------------------------------------------------

store.subscribe(draw);
// Neither needs the other, and the first paint needs both.
const sessionStarted = startSession();
sessionStarted.catch(() => {}); // looked at below, once there are words for it
await loadLocale(pickLocale(readPreference('locale'), navigator.languages));
try {
  await sessionStarted;
} catch (error) {
  if (error.status === 401) {
    clearSession();
    store.dispatch({ type: 'me', me: null });
  } else render(html`<main class="login">${alertBox(errorMessage(error), reloadButton())}</main>`, root);
}
router.show();
