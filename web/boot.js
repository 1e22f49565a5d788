// Runs before the first paint and before any module is loaded. main.js does the rest.
{
  const readPreference = (name) => {
    try {
      return JSON.parse(localStorage.getItem(name));
    } catch {
      // Without storage the system's setting applies.
      return null;
    }
  };

  // Prevents a flash of the other theme.
  const theme = readPreference('llb.theme');
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;

  // Preloads the texts in parallel with the modules that import them, which saves a round trip. The language
  // is chosen as in core/i18n.js.
  const asked = navigator.languages.map((tag) => tag.toLowerCase().split('-')[0]);
  const language =
    [readPreference('llb.locale'), ...asked].find((tag) => tag === 'en' || tag === 'ja') ?? 'en';
  // As BASE_TEXTS there.
  const names = ['shell', 'errors', 'models'];
  if (language !== 'en') names.push('catalog', 'server');
  for (const name of names) {
    const link = document.createElement('link');
    link.rel = 'modulepreload';
    link.href = new URL(`./i18n/${language}/${name}.js`, document.currentScript.src).href;
    document.head.append(link);
  }

  // Requests the data of every page while the modules load; core/api.js takes the responses.
  const { src } = document.currentScript;
  const get = (path) => fetch(new URL(`../..${path}`, src), { credentials: 'same-origin' });
  const early = { '/api/auth/me': get('/api/auth/me') };
  globalThis.earlyResponses = early;
  early['/api/auth/me'].then(
    ({ ok: isSignedIn }) => {
      if (isSignedIn) for (const path of ['/api/models', '/api/nodes']) early[path] = get(path);
    },
    // main.js reports it.
    () => {},
  );
}
