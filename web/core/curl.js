/** Building blocks of curl commands. Pure. */

/** Placeholder for the user's own API key. */
export const API_KEY_PLACEHOLDER = 'sk-your-api-key';

/** Quotes text for a POSIX shell: inside single quotes only the single quote itself needs escaping. */
export const shellQuote = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
