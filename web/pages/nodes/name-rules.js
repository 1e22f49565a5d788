/** What a node and its tags may be called: the server's rules, so that a form can say them in the reader's language. Pure. */

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;
const TAG = /^[A-Za-z0-9._:-]{1,63}$/;
const TAGS_MOST = 32;

export const badName = (name) => !NAME.test(name);

/** 'gpu, attic' → ['gpu', 'attic'], each once. */
export const tagsIn = (text) => [...new Set(text.split(/[\s,、，]+/).filter(Boolean))];

export const badTags = (tags) => tags.length > TAGS_MOST || tags.some((tag) => !TAG.test(tag));
