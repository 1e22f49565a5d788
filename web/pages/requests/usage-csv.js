/** Usage as CSV, for spreadsheets: the fields of the API, in its order. Pure. */

const COLUMNS = [
  'bucket',
  'key',
  'name',
  'user',
  'requests',
  'errors',
  'prompt_tokens',
  'cached_tokens',
  'completion_tokens',
  'cost_usd',
  'duration_ms',
];

/** With the first and the last day: the report ends before `to`. */
export const csvName = ({ by, bucket, from, to }) =>
  `usage-by-${by}-${bucket}-${from.slice(0, 10)}-${lastDay(to)}.csv`;

const lastDay = (to) => new Date(Date.parse(to) - 1).toISOString().slice(0, 10);

/** Response of `GET /api/usage` → text with a line for each total. */
export const usageCsv = ({ usage }) =>
  [COLUMNS, ...usage.map((entry) => COLUMNS.map((name) => entry[name] ?? ''))]
    .map((row) => `${row.map(cell).join(',')}\r\n`)
    .join('');

/**
 * What a spreadsheet takes for a formula, at the start of a cell. Some separate cells by semicolons or tabs,
 * whatever the quotes say, and take full-width signs for others.
 */
const FORMULA = /(^|[;\t\r\n])([\s"']*)([=+\-@＝＋－＠])/g;

/** Names are those that somebody chose: a spreadsheet must not take one for a formula. */
function cell(value) {
  if (typeof value === 'number') return String(value);
  const text = value.replace(FORMULA, "$1'$2$3");
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
