/** Expiry of API keys. Pure. */

const DAY_MS = 86_400_000;
const SOON_MS = 7 * DAY_MS;

export const NEVER = 'never';
export const ON_A_DATE = 'date';

/** Options for a new key; numbers are days. */
export const LIFETIMES = [NEVER, '7', '30', '90', ON_A_DATE];

/**
 * Expiry time for the API, or null for never. A date such as `2027-01-31` includes its last second in the
 * user's time zone.
 */
export function expiryTime(lifetime, date, now) {
  if (lifetime === NEVER) return null;
  const end =
    lifetime === ON_A_DATE ? new Date(`${date}T23:59:59`) : new Date(now + Number(lifetime) * DAY_MS);
  return end.toISOString();
}

/** Today in the format of a date field. */
export function today(now) {
  const at = new Date(now);
  const two = (number) => String(number).padStart(2, '0');
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
}

/** `expired`, `soon` (within a week) or `valid`. */
export function expiryState(end, now) {
  const left = Date.parse(end) - now;
  if (left <= 0) return 'expired';
  return left < SOON_MS ? 'soon' : 'valid';
}
