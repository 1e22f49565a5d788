/** Lists that are typed into one field, with any comma of English and Japanese. Pure. */

/** 'gpu, attic' → ['gpu', 'attic'], without duplicates. */
export const parseTags = (text) => unique(text.split(/[\s,、，]+/));

/** As tags, but the name of a model may contain spaces. */
export const parseModelNames = (text) => unique(text.split(/[,、，]/).map((name) => name.trim()));

const unique = (parts) => [...new Set(parts.filter(Boolean))];
