/** Preferences stored in this browser. Never holds credentials. */

const PREFIX = 'llb.';

/** Stored value, or `fallback`. A browser that blocks storage always returns the fallback. */
export function readPreference(name, fallback = null) {
  try {
    const text = localStorage.getItem(PREFIX + name);
    return text === null ? fallback : JSON.parse(text);
  } catch {
    return fallback;
  }
}

/** Returns false if the value could not be stored: storage may be full or blocked. */
export function savePreference(name, value) {
  try {
    if (value === null || value === undefined) localStorage.removeItem(PREFIX + name);
    else localStorage.setItem(PREFIX + name, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

/** `light`, `dark`, or null for the system's setting. */
export function setTheme(theme) {
  savePreference('theme', theme);
  applyTheme(theme);
}

const systemScheme = matchMedia('(prefers-color-scheme: dark)');

/** Whether dark colours are shown, by choice or by the system. */
export const isDark = () =>
  (document.documentElement.dataset.theme ?? (systemScheme.matches ? 'dark' : 'light')) === 'dark';

export function applyTheme(theme) {
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}
