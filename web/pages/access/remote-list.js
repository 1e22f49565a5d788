/** A list that the API has, as it was when it was asked last: at the beginning, and after each change of our own. */

import { html } from '../../lib/html.js';
import { t } from '../../core/i18n.js';
import { alertBox, errorMessage } from '../../components/feedback.js';

/** `ask(known, …)` resolves to the list; `known` is what it was before, null at first, the rest is what `load` was given. */
export function createRemoteList(app, fetchItems) {
  let items = null;
  let error = null;
  let requestCount = 0;

  async function load(...args) {
    requestCount += 1;
    const requestNumber = requestCount;
    try {
      const fetched = await fetchItems(items, ...args);
      if (requestNumber === requestCount) [items, error] = [fetched, null];
    } catch (failure) {
      if (requestNumber === requestCount) error = failure;
    }
    app.requestRender();
  }

  const retryButton = () => html`<button type="button" class="button small" @click=${() => load()}>${t('common.try_again')}</button>`;

  return {
    load,
    /** Whether there is something to show: an answer, or why there is none. */
    isReady: () => items !== null || error !== null,
    /** `show(items)`; and where they could not be asked for, why. */
    view: (show) => html`${error ? alertBox(errorMessage(error), retryButton()) : null} ${items ? show(items) : null}`,
  };
}
