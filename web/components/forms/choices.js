/** Choice group: radio buttons or checkboxes. */

import { html } from '../../lib/html.js';

/**
 * `options`: [{value, text, hint, disabled}]; `type` is `radio` or `checkbox`. `onChoose(value, chosen)` is
 * called on every change.
 */
export const choices = ({ legend, name, type = 'radio', options, isChosen, onChoose }) => html`
  <fieldset class="choices">
    <legend>${legend}</legend>
    <div class="choices-list">${options.map((option) =>
      choice(name, type, option, isChosen(option.value), onChoose),
    )}</div>
  </fieldset>`;

const choice = (name, type, { value, text, hint = null, disabled = false }, chosen, onChoose) => {
  const id = `${name}-${value}`;
  return html`
    <label class="choice">
      <input
        id=${id}
        type=${type}
        name=${name}
        value=${value}
        .checked=${chosen}
        ?disabled=${disabled}
        aria-labelledby=${`${id}-text`}
        aria-describedby=${hint && `${id}-hint`}
        @change=${(event) => onChoose(value, event.target.checked)}
      />
      <span><span id=${`${id}-text`}>${text}</span>${
        hint ? html`<small id=${`${id}-hint`}>${hint}</small>` : null
      }</span>
    </label>`;
};
