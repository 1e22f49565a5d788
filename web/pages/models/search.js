/**
 * Search of models. Every word has to occur, in any order; where no model has them all, words with a typo are
 * forgiven. Pure.
 */

import { descriptionOf, tagText } from '../../core/i18n.js';

// What people type, and what the catalogue calls it.
const SYNONYMS = {
  code: 'coding',
  programming: 'coding',
  image: 'vision',
  images: 'vision',
  thinking: 'reasoning',
  embeddings: 'embedding',
  rerank: 'reranking',
};
// Below this length a word with another letter is another word.
const MIN_FUZZY_LENGTH = 4;
const TWO_TYPOS_LENGTH = 8;

/** Search text and its words per model, in English and in the current language, built once for each. */
const known = new WeakMap();

function textOf(model) {
  let found = known.get(model);
  const shown = descriptionOf(model);
  if (found?.shown !== shown) {
    const { id, name, description, repo, tags, quantization, parameter_count: parameters } = model;
    const words = [id, name, description, repo, ...tags, quantization, parameters];
    if (shown !== description) words.push(shown, ...tags.map(tagText));
    known.set(model, (found = { shown, text: words.join(' ').toLowerCase(), words: null }));
  }
  return found;
}

const wordsOf = (model) => {
  const found = textOf(model);
  found.words ??= [...new Set(found.text.split(/[^\p{L}\p{N}]+/u))];
  return found.words;
};

/** Predicate for the models of `items` that match `query`; all match an empty one. */
export function createSearch(query, items) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return () => true;
  const exact = ({ model }) => {
    const { text } = textOf(model);
    return words.every(
      (word) =>
        text.includes(word) || (Object.hasOwn(SYNONYMS, word) && model.tags.includes(SYNONYMS[word])),
    );
  };
  if (items.some(exact)) return exact;
  const fuzzy = words.map(createFuzzyWord);
  return ({ model }) =>
    fuzzy.every((matches, at) => textOf(model).text.includes(words[at]) || wordsOf(model).some(matches));
}

/** Whether a word begins like `typed`, except for a typo; comparisons are cached. */
function createFuzzyWord(typed) {
  const allowed =
    typed.length < MIN_FUZZY_LENGTH || /\d/.test(typed) ? 0 : typed.length < TWO_TYPOS_LENGTH ? 1 : 2;
  const compared = new Map();
  return (word) => {
    if (!allowed || word[0] !== typed[0] || word.length < typed.length - allowed) return false;
    let matches = compared.get(word);
    if (matches === undefined)
      compared.set(word, (matches = distanceToPrefix(typed, word, allowed) <= allowed));
    return matches;
  };
}

/** Edits that turn `typed` into the nearest prefix of `word`; swapped letters count as one. */
export function distanceToPrefix(typed, word, limit = Infinity) {
  const width = Math.min(word.length, typed.length + 2);
  let beforeLast = [];
  let last = Array.from({ length: width + 1 }, (_, at) => at);
  for (let row = 1; row <= typed.length; row += 1) {
    const now = [row];
    for (let at = 1; at <= width; at += 1) {
      const same = typed[row - 1] === word[at - 1];
      now[at] = Math.min(last[at] + 1, now[at - 1] + 1, last[at - 1] + (same ? 0 : 1));
      if (row > 1 && at > 1 && typed[row - 1] === word[at - 2] && typed[row - 2] === word[at - 1])
        now[at] = Math.min(now[at], beforeLast[at - 2] + 1);
    }
    if (Math.min(...now) > limit) return Infinity;
    [beforeLast, last] = [last, now];
  }
  return Math.min(...last);
}
