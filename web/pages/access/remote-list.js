/** A list that the API has, as it was when it was asked last: at the beginning, and after each change of our own. */

import { html } from '../../lib/html.js';
import { t } from '../../core/i18n.js';
import { alertBox, explain } from '../../components/feedback.js';

/** `ask(known, …)` resolves to the list; `known` is what it was before, null at first, the rest is what `load` was given. */
export function makeList(app, ask) {
  let items = null;
  let error = null;
  let asked = 0;

  async function load(...given) {
    asked += 1;
    const mine = asked;
    try {
      const answer = await ask(items, ...given);
      if (mine === asked) [items, error] = [answer, null];
    } catch (failure) {
      if (mine === asked) error = failure;
    }
    app.touch();
  }

  const again = () => html`<button type="button" class="button small" @click=${() => load()}>${t('common.try_again')}</button>`;

  return {
    load,
    /** Whether there is something to show: an answer, or why there is none. */
    isReady: () => items !== null || error !== null,
    /** `show(items)`; and where they could not be asked for, why. */
    view: (show) => html`${error ? alertBox(explain(error), again()) : null} ${items ? show(items) : null}`,
  };
}
