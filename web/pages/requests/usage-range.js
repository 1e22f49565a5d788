/** Period of the usage section: from the URL of the page to the parameters of the API, in UTC days. Pure. */

export const CUSTOM = 'custom';
export const PERIODS = ['', '30', '90', CUSTOM];
// More columns than this would not be seen.
export const MAX_HOUR_DAYS = 31;
export const MAX_DAYS = 1100;

const DAY_MS = 86_400_000;
const DATE = /^\d{4}-\d{2}-\d{2}$/;

/** Unix milliseconds → date such as 2026-01-31. */
export const dateOf = (moment) => new Date(moment).toISOString().slice(0, 10);

const startOf = (date) => (DATE.test(date ?? '') ? Date.parse(`${date}T00:00:00Z`) : Number.NaN);

/** Dates of a new custom period: the last seven days. */
export const defaultDates = (now) => ({ from: dateOf(now - 6 * DAY_MS), to: dateOf(now) });

/**
 * Query of the page → {period, from, to, bucket, problem}. `from` and `to` are what the API is asked for, by
 * default null; `to` is the start of the day after the last one. With a `problem`, `dates` or `too_long`,
 * nothing is asked. Of a long period there are no hours.
 */
export function usageRange({ period, from, to }, bucket, now) {
  if (period === CUSTOM) {
    const [first, last] = [startOf(from), startOf(to)];
    const days = (last - first) / DAY_MS + 1;
    if (!(days >= 1)) return { period, from: null, to: null, bucket, problem: 'dates' };
    if (days > MAX_DAYS) return { period, from: null, to: null, bucket, problem: 'too_long' };
    return between(period, first, last + DAY_MS, days, bucket);
  }
  if (!PERIODS.includes(period ?? '') || !period)
    return { period: '', from: null, to: null, bucket, problem: null };
  const days = Number(period);
  const end = startOf(dateOf(now)) + DAY_MS;
  return between(period, end - days * DAY_MS, end, days, bucket);
}

const between = (period, first, end, days, bucket) => ({
  period,
  from: new Date(first).toISOString(),
  to: new Date(end).toISOString(),
  bucket: days > MAX_HOUR_DAYS ? 'day' : bucket,
  problem: null,
});
