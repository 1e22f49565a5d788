/**
 * Texts of the page: `t('models.pull')`, `t('nodes.count', {count: 2})`. A text can have plural forms for
 * `count`.
 */

import * as format from './format.js';

export const LOCALES = { en: 'English', ja: '日本語' };

let currentLocale = 'en';
let messages = Object.create(null);
let plural = new Intl.PluralRules('en');

export const locale = () => currentLocale;

/** Best supported language: the stored one, else the first match of the browser's preferences. */
export const pickLocale = (stored, requested) =>
  [stored, ...requested.map((tag) => tag.toLowerCase().split('-')[0])].find((tag) =>
    Object.hasOwn(LOCALES, tag),
  ) ?? 'en';

/** Files of texts that every page needs; those of another page are loaded with it. boot.js preloads them. */
export const BASE_TEXTS = ['shell', 'errors', 'models'];

/** Texts of the catalogue and of the server in other languages than their own, which is English. */
const TRANSLATIONS = ['catalog', 'server'];

// Files that were asked for, in any language.
const files = new Set(BASE_TEXTS);

const load = async (language, names) =>
  Object.assign(
    { __proto__: null },
    ...(await Promise.all(names.map((name) => import(`../i18n/${language}/${name}.js`)))).map(
      ({ default: texts }) => texts,
    ),
  );

/** Switches to a language, with all files in use. The whole page has to be rendered again afterwards. */
export async function loadLocale(name) {
  let found;
  let count;
  do {
    // A page that is opened meanwhile adds files.
    count = files.size;
    found = await load(name, [...files, ...(name === 'en' ? [] : TRANSLATIONS)]);
  } while (files.size > count);
  messages = found;
  currentLocale = name;
  plural = new Intl.PluralRules(name);
  document.documentElement.lang = name;
}

/** Loads further files of texts in the current language. */
export async function loadTexts(names) {
  const language = currentLocale;
  for (const name of names) files.add(name);
  const found = await load(language, names);
  if (language === currentLocale) Object.assign(messages, found);
}

/**
 * Text of `key` with `{name}` replaced by `values.name`. A missing text shows as its key so that it gets
 * noticed.
 */
export function t(key, values = {}) {
  let text = messages[key] ?? key;
  if (typeof text === 'object') text = text[plural.select(values.count)] ?? text.other;
  return fill(text, values);
}

const fill = (text, values) =>
  text.replace(/\{(\w+)\}/g, (placeholder, name) => values[name] ?? placeholder);

/**
 * A sentence of the server in the current language; as the server wrote it, where its code is unknown.
 * `code`: {code, values}, of which a value can be the code of another sentence.
 */
export function serverText(text, code) {
  const known = code && messages[`text:${code.code}`];
  if (!known) return text;
  const values = Object.entries(code.values).map(([name, value]) => [
    name,
    typeof value === 'object' ? serverText(null, value) : value,
  ]);
  // Without all of its parts it would be half in one language.
  if (values.some(([, value]) => value === null)) return text;
  return fill(known, Object.fromEntries(values));
}

/** The problems of a node or of the server in the current language; of an earlier version in English. */
export const problemsOf = ({ problems = [], problem_codes: codes = [] }) =>
  problems.map((problem, at) => serverText(problem, codes[at]));

/** What a host gives up so that a model fits, or why it does not; null for nothing. */
export const fitReason = ({ reason, reason_codes: codes = [] }) => {
  const sentences = codes.map((code) => serverText(null, code));
  return sentences.length && !sentences.includes(null) ? sentences.join('') : reason;
};

/** The error of a model, a replica, a download or an engine in the current language. */
export const errorTextOf = ({ error, error_code: code }) => serverText(error, code);

/** Description of a model in the current language, or as it is in the catalogue. */
export const descriptionOf = ({ description }) => messages[description] ?? description;

/** Tag of a model in the current language. */
export const tagText = (tag) => messages[`tag:${tag}`] ?? tag;

export const hasText = (key) => key in messages;

/** Functions of format.js bound to the current language. */
export const f = {
  bytes: (value) => format.bytes(value, currentLocale),
  rate: (value) => format.rate(value, currentLocale),
  percent: (value) => format.percent(value, currentLocale),
  money: (value) => format.money(value, currentLocale),
  compact: (value) => format.compact(value, currentLocale),
  number: (value, digits) => format.number(value, currentLocale, digits),
  tokens: (value) => format.tokens(value, currentLocale),
  duration: (value) => format.duration(value, currentLocale),
  milliseconds: (value) => format.milliseconds(value, currentLocale),
  latency: (value) => format.latency(value, currentLocale),
  ago: (value) => format.ago(value, currentLocale, Date.now()),
  date: (value) => format.date(value, currentLocale),
  dateTime: (value) => format.dateTime(value, currentLocale),
  shortDateTime: (value) => format.shortDateTime(value, currentLocale),
  utcDay: (value) => format.utcDay(value, currentLocale),
  hourOfDay: (value) => format.hourOfDay(value, currentLocale),
  timeOfDay: (value) => format.timeOfDay(value, currentLocale),
};
