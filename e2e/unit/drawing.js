/** Helpers for the tests of lib/html.js. */

import { render } from '/web/lib/html.js';
import { place } from './runner.js';

/** Visible markup: without the comments that mark the positions of values. */
export const shown = (element) => element.innerHTML.replace(/<!--.*?-->/gs, '');

export function draw(value, element = place()) {
  render(value, element);
  return element;
}

/** Mutations of `element` caused by `work`. */
export function changes(element, work) {
  const observer = new MutationObserver(() => {});
  observer.observe(element, { subtree: true, childList: true, attributes: true, characterData: true });
  work();
  const records = observer.takeRecords();
  observer.disconnect();
  return records;
}
