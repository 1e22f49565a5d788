/**
 * Rules for node names and tags. They repeat the server's rules so that the form can explain them in the
 * user's language. Pure.
 */

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;
const TAG = /^[A-Za-z0-9._:-]{1,63}$/;
const MAX_TAGS = 32;

export const isInvalidName = (name) => !NAME.test(name);

export const hasInvalidTag = (tags) => tags.length > MAX_TAGS || tags.some((tag) => !TAG.test(tag));
