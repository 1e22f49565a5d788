/** A list that the API has, as it was when it was asked last: asked at the beginning, and after each change of our own. */

import { html } from '../../lib/html.js';
import { alertBox, explain } from '../../components/feedback.js';

/** `ask()` resolves to the list. `items` is null until the first answer. */
export function makeList(app, ask) {
  let items = null;
  let error = null;
  return {
    get items() {
      return items;
    },
    async load() {
      try {
        [items, error] = [await ask(), null];
      } catch (failure) {
        error = failure;
      }
      app.touch();
    },
    /** What stands there instead of the list while there is none. */
    placeholder: () => (error ? alertBox(explain(error)) : html`<div class="skeleton access-wait" aria-hidden="true"></div>`),
  };
}
