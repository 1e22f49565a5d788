/** Addresses of the page: pure matching, and the little that touches the browser's history. */

/** The page's own addresses; the server answers each of them with index.html. */
export const ROUTES = {
  '/login': { page: 'login' },
  '/models': { page: 'models', tab: 'hub' },
  '/models/local': { page: 'models', tab: 'local' },
  '/playground': { page: 'playground' },
  '/nodes': { page: 'nodes' },
  '/requests': { page: 'requests' },
  '/access': { page: 'access' },
  '/settings': { page: 'settings' },
  '/docs': { page: 'docs' },
};

export const HOME_PATH = '/models';

const ORIGIN = 'http://page.invalid'; // what a path is read against

/** An address (path, query, fragment) → {path, page, tab, query}, null for one that is not the page's. */
export function matchRoute(href) {
  const url = new URL(href, ORIGIN);
  const path = url.pathname === '/' ? HOME_PATH : url.pathname.replace(/\/+$/, '');
  const route = Object.hasOwn(ROUTES, path) ? ROUTES[path] : null;
  return route && { path, tab: null, ...route, query: Object.fromEntries(url.searchParams) };
}

/** A path and what stands in its query; empty values are left out, so that a plain address stays plain. */
export function buildUrl(path, query = {}) {
  const filled = Object.entries(query).filter(([, value]) => value !== '' && value !== null && value !== undefined);
  return filled.length ? `${path}?${new URLSearchParams(filled)}` : path;
}

/** Where to go after signing in: an address of this page, never another site's. */
export function safeReturnUrl(next) {
  // Browsers read `//host`, `/\host` and `/<tab>/host` as other sites: ask the parser itself, not a pattern.
  if (typeof next !== 'string' || !next.startsWith('/') || !URL.canParse(next, ORIGIN)) return HOME_PATH;
  const { origin, pathname, search, hash } = new URL(next, ORIGIN);
  const route = origin === ORIGIN && matchRoute(next);
  return route && route.page !== 'login' ? pathname + search + hash : HOME_PATH;
}

/**
 * Follow links and the Back button. `onChange(route, {moved})` is called for every address; `moved` tells a new page or
 * tab from a mere change of the query.
 */
export function startRouter(onChange) {
  let current = null;

  const show = () => {
    const route = matchRoute(location.href);
    if (!route) return location.reload(); // it is the server's
    const moved = !current || current.path !== route.path;
    current = route;
    onChange(route, { moved });
  };

  const go = (to, { replace = false } = {}) => {
    if (to === location.pathname + location.search) return;
    history[replace ? 'replaceState' : 'pushState'](null, '', to);
    show();
  };

  addEventListener('popstate', show);
  document.addEventListener('click', (event) => {
    const link = event.target.closest?.('a[href]');
    if (!link || event.defaultPrevented || event.button !== 0) return;
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    if (link.target || link.hasAttribute('download') || link.origin !== location.origin) return;
    if (link.hash && link.pathname === location.pathname) return; // within the page
    if (!matchRoute(link.href)) return;
    event.preventDefault();
    go(link.pathname + link.search);
  });
  return { show, go };
}
