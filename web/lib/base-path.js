/**
 * Base path: the path below which a reverse proxy serves llb, such as `/llb`; empty without one.
 *
 * Paths in this code are those of llb, such as `/models`. They become addresses of the browser in four
 * places: links (lib/html.js), requests (core/api.js), WebSockets (core/socket.js) and the router.
 */

/** Base path by the URL of this module, to which the page links relative to its own address. */
export const basePathOf = (url) =>
  /^(.*)\/assets\/[^/]+\/lib\/base-path\.js$/.exec(new URL(url).pathname)?.[1] ?? '';

const BASE_PATH = basePathOf(import.meta.url);

/** Path of llb → path in the browser. Other URLs stay as they are. */
export const toBrowserPath = (path, base = BASE_PATH) => (/^\/(?![/\\])/.test(path) ? base + path : path);

/** Path in the browser → path of llb, or null if it is not below the base path. */
export function toOwnPath(path, base = BASE_PATH) {
  if (path === base) return '/';
  return path.startsWith(`${base}/`) ? path.slice(base.length) : null;
}

/** URL of the server for other programs, without a slash at its end. */
export const serverUrl = () => location.origin + BASE_PATH;
