/** What the tests of lib/html.js draw with, and look at. */

import { render } from '/web/lib/html.js';
import { place } from './runner.js';

/** What a person sees of it: the markup without the comments that mark the places of values. */
export const shown = (element) => element.innerHTML.replace(/<!--.*?-->/gs, '');

export function draw(value, element = place()) {
  render(value, element);
  return element;
}

/** The changes that `work` makes in `element`. */
export function changes(element, work) {
  const observer = new MutationObserver(() => {});
  observer.observe(element, { subtree: true, childList: true, attributes: true, characterData: true });
  work();
  const records = observer.takeRecords();
  observer.disconnect();
  return records;
}
