/**
 * Formatting of numbers, sizes and times for a locale. Sizes are decimal: 1 GB is 10⁹ bytes, as everywhere in
 * llb.
 */

const UNITS = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];

const cached = (make) => {
  const made = new Map();
  return (...key) => {
    const name = JSON.stringify(key);
    if (!made.has(name)) made.set(name, make(...key));
    return made.get(name);
  };
};

const numberFormat = cached((locale, options) => new Intl.NumberFormat(locale, options));
const dateFormat = cached((locale, options) => new Intl.DateTimeFormat(locale, options));
const relativeFormat = cached((locale) => new Intl.RelativeTimeFormat(locale, { numeric: 'auto' }));

/** 1234567890 → "1.2 GB": at most three digits, one decimal below 100. */
export function bytes(value, locale = 'en') {
  if (value === null || value === undefined) return '–';
  const { size, unit, digits } = inUnits(value);
  const text = numberFormat(locale, { maximumFractionDigits: digits }).format(value < 0 ? -size : size);
  return `${text} ${UNITS[unit]}`;
}

function inUnits(value) {
  let size = Math.abs(value);
  let unit = 0;
  while (size >= 999.5 && unit < UNITS.length - 1) {
    size /= 1000;
    unit += 1;
  }
  return { size, unit, digits: unit === 0 || size >= 99.95 ? 0 : 1 };
}

/** Bytes as `bytes` shows them. Sums of shown figures are made of these, so that they add up to the eye. */
export function shownBytes(value) {
  const { size, unit, digits } = inUnits(value);
  return Math.sign(value) * (Math.round(size * 10 ** digits) / 10 ** digits) * 1000 ** unit;
}

export const rate = (bytesPerSecond, locale = 'en') =>
  bytesPerSecond === null || bytesPerSecond === undefined ? '–' : `${bytes(bytesPerSecond, locale)}/s`;

/** Share from 0 to 1 → "45%", rounded down so that 100% means complete. */
export const percent = (share, locale = 'en') =>
  numberFormat(locale, { style: 'percent' }).format(Math.floor((share ?? 0) * 100 + 1e-9) / 100);

/** US dollars: 1.5 → "$1.50", 0.000123 → "$0.00012", because most requests cost less than a cent. */
export function money(value, locale = 'en') {
  if (value === null || value === undefined) return '–';
  const digits =
    value !== 0 && Math.abs(value) < 0.01
      ? { maximumSignificantDigits: 2 }
      : { minimumFractionDigits: 2, maximumFractionDigits: 2 };
  const unit = { style: 'currency', currency: 'USD', currencyDisplay: 'narrowSymbol' };
  return numberFormat(locale, { ...unit, ...digits }).format(value);
}

/** 50000 → "50K" */
export const compact = (value, locale = 'en') =>
  value === null || value === undefined
    ? '–'
    : numberFormat(locale, { notation: 'compact', maximumFractionDigits: 1 }).format(value);

export const number = (value, locale = 'en', digits = 0) =>
  value === null || value === undefined
    ? '–'
    : numberFormat(locale, { maximumFractionDigits: digits, minimumFractionDigits: digits }).format(value);

/** 131072 → "128K": context lengths are powers of two and commonly written this way. */
export const tokens = (value, locale = 'en') => {
  if (value === null || value === undefined) return '–';
  return value >= 1024 && value % 1024 === 0 ? `${number(value / 1024, locale)}K` : number(value, locale);
};

/** Seconds → "40 sec", "3 min", "1 hr 20 min", "2 days 3 hr", with the unit names of `locale`. */
export function duration(seconds, locale = 'en') {
  if (!Number.isFinite(seconds)) return '–';
  const whole = Math.max(0, Math.round(seconds));
  const steps = [
    [whole / 86400, 'day', (whole % 86400) / 3600, 'hour'],
    [whole / 3600, 'hour', (whole % 3600) / 60, 'minute'],
    [whole / 60, 'minute', 0, 'second'],
    [whole, 'second', 0, 'second'],
  ];
  const [large, unit, small, smallUnit] = steps.find(([size]) => size >= 1) ?? steps[3];
  const part = (value, name) =>
    numberFormat(locale, { style: 'unit', unit: name, unitDisplay: 'short' }).format(Math.floor(value));
  return small >= 1 ? `${part(large, unit)} ${part(small, smallUnit)}` : part(large, unit);
}

/** Milliseconds → "340 ms", "1.2 s". */
export const milliseconds = (value, locale = 'en') => {
  if (value === null || value === undefined) return '–';
  return value < 999.5 ? `${number(Math.round(value), locale)} ms` : `${number(value / 1000, locale, 1)} s`;
};

/** Network latency in milliseconds → "0.4 ms", "12 ms". */
export const latency = (value, locale = 'en') => {
  if (value === null || value === undefined) return '–';
  return `${number(value, locale, value < 9.95 ? 1 : 0)} ms`;
};

/** Time (Date, ISO string, or Unix seconds) relative to `now` in milliseconds → "3 minutes ago". */
export function ago(moment, locale, now) {
  const at = toDate(moment);
  if (!at) return '–';
  const seconds = (at.getTime() - now) / 1000;
  const size = Math.abs(seconds);
  const [unit, length] = [
    ['year', 31557600],
    ['month', 2629800],
    ['day', 86400],
    ['hour', 3600],
    ['minute', 60],
  ].find(([, each]) => size >= each) ?? ['second', 1];
  return relativeFormat(locale).format(Math.trunc(seconds / length), unit);
}

/** Date and time in the user's time zone. */
export function dateTime(moment, locale = 'en') {
  const at = toDate(moment);
  return at ? dateFormat(locale, { dateStyle: 'medium', timeStyle: 'short' }).format(at) : '–';
}

/** Day in the user's time zone. */
export function date(moment, locale = 'en') {
  const at = toDate(moment);
  return at ? dateFormat(locale, { dateStyle: 'medium' }).format(at) : '–';
}

/** Recent date and time, without the year. */
export function shortDateTime(moment, locale = 'en') {
  const at = toDate(moment);
  const fields = {
    month: 'short',
    day: 'numeric',
    hour: '2-digit',
    minute: '2-digit',
    second: '2-digit',
    hourCycle: 'h23',
  };
  return at ? dateFormat(locale, fields).format(at) : '–';
}

/** Day in UTC, which is how llb groups its totals. */
export function utcDay(moment, locale = 'en') {
  const at = toDate(moment);
  return at ? dateFormat(locale, { month: 'short', day: 'numeric', timeZone: 'UTC' }).format(at) : '–';
}

/** Hours and minutes in the user's time zone. */
export function hourOfDay(moment, locale = 'en') {
  const at = toDate(moment);
  return at ? dateFormat(locale, { timeStyle: 'short' }).format(at) : '–';
}

export function timeOfDay(moment, locale = 'en') {
  const at = toDate(moment);
  return at ? dateFormat(locale, { timeStyle: 'medium' }).format(at) : '–';
}

function toDate(moment) {
  if (moment === null || moment === undefined || moment === '') return null;
  const at = moment instanceof Date ? moment : new Date(typeof moment === 'number' ? moment * 1000 : moment);
  return Number.isNaN(at.getTime()) ? null : at;
}
