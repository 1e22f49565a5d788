/** Router: URL matching, and the few calls to the browser's history. */

import { toBrowserPath, toOwnPath } from '../lib/base-path.js';

/** URLs of the page; the server responds to each with index.html. */
export const ROUTES = {
  '/login': { page: 'login' },
  '/models': { page: 'models', tab: 'hub' },
  '/models/local': { page: 'models', tab: 'local' },
  '/playground': { page: 'playground' },
  '/nodes': { page: 'nodes' },
  '/nodes/endpoints': { page: 'endpoints', section: 'nodes' },
  '/requests': { page: 'requests' },
  '/access': { page: 'access' },
  '/settings': { page: 'settings' },
  '/docs': { page: 'docs' },
};

export const HOME_PATH = '/models';

/** Pages of one model and of the log of one node, whose path contains an id. */
export const PATTERNS = [
  // As in the catalogue.
  { pattern: /^\/models\/([a-z0-9][a-z0-9.-]*)$/, page: 'models', tab: 'model' },
  { pattern: /^\/nodes\/([A-Za-z0-9_-]+)\/logs$/, page: 'logs', section: 'nodes' },
];

export const logsPath = (id) => `/nodes/${encodeURIComponent(id)}/logs`;

export const modelPath = (id) => `/models/${encodeURIComponent(id)}`;

// Base for parsing paths.
const ORIGIN = 'http://page.invalid';

/** URL (path, query, fragment) → {path, page, tab, query}, or null if it is not one of the page's. */
export function matchRoute(href) {
  if (href === null) return null;
  const url = new URL(href, ORIGIN);
  const path = url.pathname === '/' ? HOME_PATH : url.pathname.replace(/\/+$/, '');
  const route = Object.hasOwn(ROUTES, path) ? ROUTES[path] : matchPattern(path);
  return route && { path, tab: null, ...route, query: Object.fromEntries(url.searchParams) };
}

function matchPattern(path) {
  for (const { pattern, ...route } of PATTERNS) {
    const [, id] = pattern.exec(path) ?? [];
    if (id) return { ...route, id };
  }
  return null;
}

/** Path with a query string; empty values are left out to keep URLs short. */
export function buildUrl(path, query = {}) {
  const filled = Object.entries(query).filter(
    ([, value]) => value !== '' && value !== null && value !== undefined,
  );
  return filled.length ? `${path}?${new URLSearchParams(filled)}` : path;
}

/** Path and query, without the base path, of `location` or a link; null if it is not one of llb. */
export function ownUrl({ pathname, search }) {
  const path = toOwnPath(pathname);
  return path && path + search;
}

/** Where to go after signing in: always a URL of this page, never another site. */
export function safeReturnUrl(next) {
  // Browsers treat `//host`, `/\host` and `/<tab>/host` as other sites. Hence the parser decides, not a
  // pattern.
  if (typeof next !== 'string' || !next.startsWith('/') || !URL.canParse(next, ORIGIN)) return HOME_PATH;
  const { origin, pathname, search, hash } = new URL(next, ORIGIN);
  const route = origin === ORIGIN && matchRoute(next);
  return route && route.page !== 'login' ? pathname + search + hash : HOME_PATH;
}

/**
 * Handles links and the Back button. `onChange(route, {moved, back})` is called for every URL; `moved` is
 * false if only the query has changed, `back` is true for the Back and Forward buttons.
 */
export function startRouter(onChange) {
  let current = null;

  const show = ({ back = false } = {}) => {
    const route = matchRoute(ownUrl(location));
    // The server handles this URL.
    if (!route) return location.reload();
    const moved = !current || current.path !== route.path;
    current = route;
    onChange(route, { moved, back });
  };

  const go = (to, { replace = false } = {}) => {
    if (to === ownUrl(location)) return;
    history[replace ? 'replaceState' : 'pushState'](null, '', toBrowserPath(to));
    show();
  };

  addEventListener('popstate', () => show({ back: true }));
  document.addEventListener('click', (event) => {
    const link = event.target.closest?.('a[href]');
    if (!link || event.defaultPrevented || event.button !== 0) return;
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    if (link.target || link.hasAttribute('download') || link.origin !== location.origin) return;
    // Link within the page.
    if (link.hash && link.pathname === location.pathname) return;
    const to = ownUrl(link);
    if (!matchRoute(to)) return;
    event.preventDefault();
    go(to);
  });
  return { show, go };
}
