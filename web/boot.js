// Runs before the first paint and before any module is there. The rest is main.js.
{
  const readPreference = (name) => {
    try {
      return JSON.parse(localStorage.getItem(name));
    } catch {
      return null; // without storage the system's taste holds
    }
  };

  // So that a chosen theme does not flash the other one.
  const theme = readPreference('llb.theme');
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;

  // The words are asked for beside the modules that will ask for them: a round trip less. As i18n.js chooses the language.
  const asked = navigator.languages.map((tag) => tag.toLowerCase().split('-')[0]);
  const language = [readPreference('llb.locale'), ...asked].find((tag) => tag === 'en' || tag === 'ja') ?? 'en';
  const parts = ['access', 'docs', 'errors', 'models', 'nodes', 'playground', 'requests', 'settings', 'shell'];
  for (const name of [language, ...parts.map((part) => `${language}/${part}`)]) {
    const link = document.createElement('link');
    link.rel = 'modulepreload';
    link.href = new URL(`./i18n/${name}.js`, document.currentScript.src).href;
    document.head.append(link);
  }
}
