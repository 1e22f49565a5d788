/** Style sheets of pages, loaded with them. Those of every page are linked in index.html. */

// Name → promise; a sheet stays once it is loaded.
const sheets = new Map();

/** Resolves when all of `names` apply, so that nothing is shown without them. */
export const loadStyles = (names) => Promise.all(names.map(loadStyle));

function loadStyle(name) {
  if (!sheets.has(name)) sheets.set(name, append(name));
  return sheets.get(name);
}

function append(name) {
  const link = document.createElement('link');
  link.rel = 'stylesheet';
  link.href = new URL(`../styles/${name}.css`, import.meta.url).href;
  return new Promise((done, fail) => {
    link.addEventListener('load', done);
    link.addEventListener('error', () => {
      // The next attempt asks again.
      sheets.delete(name);
      link.remove();
      fail(new Error(link.href));
    });
    document.head.append(link);
  });
}
