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

/** Languages other than that of the catalogue, which have a file for its texts. */
const CATALOG_LOCALES = new Set(['ja']);

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
    found = await load(name, [...files, ...(CATALOG_LOCALES.has(name) ? ['catalog'] : [])]);
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
  return text.replace(/\{(\w+)\}/g, (placeholder, name) => values[name] ?? placeholder);
}

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
