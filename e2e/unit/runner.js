/** Test runner: `test(name, run)` registers a test, `results()` runs them in sequence. */

// For hangs only: on a busy machine a page may get no processor for seconds.
const WITHIN_MS = 30_000;
const tests = [];

/** pytest reads the names before a browser runs, so they are plain strings at the start of a line. */
export const test = (name, run) => tests.push({ name, run });

/** {name: null, or the error}. */
export async function results() {
  const found = {};
  for (const { name, run } of tests) {
    if (name in found) throw new Error(`two tests are called ${name}`);
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(reject, WITHIN_MS, new Error(`not done after ${WITHIN_MS} ms`));
    });
    found[name] = await Promise.race([Promise.resolve().then(run), late]).then(
      () => null,
      (error) => error?.stack ?? String(error),
    );
    clearTimeout(timer);
    document.body.replaceChildren();
  }
  return found;
}

/** Element in the document, removed after the test. */
export function place() {
  const element = document.createElement('div');
  document.body.append(element);
  return element;
}

export function ok(value, message = 'it does not hold') {
  if (!value) throw new Error(message);
}

/** Asserts deep equality; arrays, objects, maps and sets are compared by content. */
export function equal(actual, expected, message = '') {
  if (same(actual, expected)) return;
  throw new Error(`${message}\n  is:        ${show(actual)}\n  should be: ${show(expected)}`);
}

/** Returns the error that `run` throws or rejects with; it has to match `pattern`. */
export async function fails(run, pattern = /./) {
  let error = null;
  try {
    await run();
  } catch (thrown) {
    error = thrown;
  }
  ok(error, 'it did not fail');
  ok(pattern.test(String(error)), `it failed with ${error}, not with ${pattern}`);
  return error;
}

/** Deeply frozen value: any attempt to change it throws. */
export function frozen(value) {
  if (typeof value !== 'object' || value === null || Object.isFrozen(value)) return value;
  if (value instanceof Map || value instanceof Set) {
    const refuse = () => {
      throw new Error('a frozen collection was changed');
    };
    for (const name of ['set', 'add', 'delete', 'clear']) if (value[name]) value[name] = refuse;
    value.forEach((item) => frozen(item));
  }
  Object.freeze(value);
  Object.values(value).forEach(frozen);
  return value;
}

function same(a, b) {
  if (Object.is(a, b)) return true;
  if (typeof a !== 'object' || typeof b !== 'object' || !a || !b) return false;
  if (Object.getPrototypeOf(a) !== Object.getPrototypeOf(b)) return false;
  if (a instanceof Map || a instanceof Set) return same([...a], [...b]);
  const [left, right] = [Object.keys(a), Object.keys(b)];
  return left.length === right.length && left.every((key) => Object.hasOwn(b, key) && same(a[key], b[key]));
}

function show(value) {
  const plain = (_, item) => {
    if (item instanceof Map) return { Map: [...item] };
    if (item instanceof Set) return { Set: [...item] };
    return item === undefined ? 'undefined' : item;
  };
  return JSON.stringify(value, plain) ?? String(value);
}
