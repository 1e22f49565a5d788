/** What this browser remembers of a person's taste. Never a credential. */

const PREFIX = 'llb.';

/** The remembered value, or `fallback`; a browser that forbids storage forgets at once. */
export function readPreference(name, fallback = null) {
  try {
    const text = localStorage.getItem(PREFIX + name);
    return text === null ? fallback : JSON.parse(text);
  } catch {
    return fallback;
  }
}

/** Returns whether it could be kept: storage may be full or forbidden. */
export function savePreference(name, value) {
  try {
    if (value === null || value === undefined) localStorage.removeItem(PREFIX + name);
    else localStorage.setItem(PREFIX + name, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

/** `light`, `dark`, or null for what the system says. */
export function setTheme(theme) {
  savePreference('theme', theme);
  applyTheme(theme);
}

export function applyTheme(theme) {
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}
