/** The words of the page. `t('models.pull')`, `t('nodes.count', {count: 2})`; a text may differ by the plural of `count`. */

import * as format from './format.js';

export const LOCALES = { en: 'English', ja: '日本語' };

let current = 'en';
let words = Object.create(null);
let plural = new Intl.PluralRules('en');

export const locale = () => current;

/** The best of our languages for what a browser asks for. */
export const choose = (wanted, asked) =>
  [wanted, ...asked.map((tag) => tag.toLowerCase().split('-')[0])].find((tag) => Object.hasOwn(LOCALES, tag)) ?? 'en';

/** Load the words of `name`; everything has to be rendered anew after it. */
export async function useLocale(name) {
  const module = await import(`../i18n/${name}.js`);
  words = { __proto__: null, ...module.default };
  current = name;
  plural = new Intl.PluralRules(name);
  document.documentElement.lang = name;
}

/** The text of `key` with `{name}` replaced by `values.name`; the key itself where there is none, so that it is seen. */
export function t(key, values = {}) {
  let text = words[key] ?? key;
  if (typeof text === 'object') text = text[plural.select(values.count)] ?? text.other;
  return text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

export const hasText = (key) => key in words;

/** The functions of format.js in the current language. */
export const f = {
  bytes: (value) => format.bytes(value, current),
  rate: (value) => format.rate(value, current),
  percent: (value) => format.percent(value, current),
  compact: (value) => format.compact(value, current),
  number: (value, digits) => format.number(value, current, digits),
  tokens: (value) => format.tokens(value, current),
  duration: (value) => format.duration(value, current),
  milliseconds: (value) => format.milliseconds(value, current),
  latency: (value) => format.latency(value, current),
  ago: (value) => format.ago(value, current, Date.now()),
  dateTime: (value) => format.dateTime(value, current),
  shortDateTime: (value) => format.shortDateTime(value, current),
  utcDay: (value) => format.utcDay(value, current),
  hourOfDay: (value) => format.hourOfDay(value, current),
  timeOfDay: (value) => format.timeOfDay(value, current),
};
