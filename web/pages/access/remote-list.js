/** List fetched from the API: loaded when the page opens and after each change made on it. */

import { html } from '../../lib/html.js';
import { t } from '../../core/i18n.js';
import { alertBox, errorMessage } from '../../components/feedback.js';

/**
 * `fetchItems(items, …args)` resolves to the new list. `items` is the previous one, at first null; `args` are
 * those of `load`.
 */
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

  const retryButton = () =>
    html`<button type="button" class="button small" @click=${() => load()}>${t('common.try_again')}</button>`;

  return {
    load,
    /** Whether there is something to show: items or an error. */
    isReady: () => items !== null || error !== null,
    /** `show(items)` once there are items. */
    show: (show) => (items ? show(items) : null),
    /** `show(items)`, preceded by the error if loading failed. */
    view: (show) =>
      html`${error ? alertBox(errorMessage(error), retryButton()) : null} ${items ? show(items) : null}`,
  };
}
