/** Command lines that ask llb. Pure. */

/** Stands where everybody puts a key of their own. */
export const API_KEY_PLACEHOLDER = 'sk-your-api-key';

/** In single quotes a shell leaves everything as it is but the single quote. */
export const shellQuote = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
