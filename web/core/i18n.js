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

/** Loads the texts of a language. The whole page has to be rendered again afterwards. */
export async function loadLocale(name) {
  const module = await import(`../i18n/${name}.js`);
  messages = { __proto__: null, ...module.default };
  currentLocale = name;
  plural = new Intl.PluralRules(name);
  document.documentElement.lang = name;
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

export const hasText = (key) => key in messages;

/** Functions of format.js bound to the current language. */
export const f = {
  bytes: (value) => format.bytes(value, currentLocale),
  rate: (value) => format.rate(value, currentLocale),
  percent: (value) => format.percent(value, currentLocale),
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
