/** What a node and its tags may be called: the server's rules, so that a form can say them in the reader's language. Pure. */

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;
const TAG = /^[A-Za-z0-9._:-]{1,63}$/;
const MAX_TAGS = 32;

export const isInvalidName = (name) => !NAME.test(name);

/** 'gpu, attic' → ['gpu', 'attic'], each once. */
export const parseTags = (text) => [...new Set(text.split(/[\s,、，]+/).filter(Boolean))];

export const hasInvalidTag = (tags) => tags.length > MAX_TAGS || tags.some((tag) => !TAG.test(tag));
