/**
 * `now`, with every part of `before` that is equal to it: what a response does not change stays the same
 * object, so that it is not drawn again. Both are parsed JSON. Pure.
 */
export function keepEqual(before, now) {
  if (Object.is(before, now) || !isContainer(before) || !isContainer(now)) return now;
  if (Array.isArray(before) !== Array.isArray(now)) return now;
  const names = Object.keys(now);
  let isEqual = names.length === Object.keys(before).length;
  const kept = Array.isArray(now) ? [] : {};
  for (const name of names) {
    kept[name] = Object.hasOwn(before, name) ? keepEqual(before[name], now[name]) : now[name];
    isEqual &&= Object.hasOwn(before, name) && Object.is(kept[name], before[name]);
  }
  return isEqual ? before : kept;
}

const isContainer = (value) => typeof value === 'object' && value !== null;
