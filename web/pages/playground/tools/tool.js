/** Common parts of the try-outs of embedding and reranking models: one request at a time, form, scores. */

import { html } from '../../../lib/html.js';
import { f, t } from '../../../core/i18n.js';
import { alertBox, errorMessage } from '../../../components/feedback.js';
import { progressBar } from '../../../components/progress.js';

/** Texts of a field with one text per line. */
export const linesOf = (text) =>
  text
    .split('\n')
    .map((line) => line.trim())
    .filter(Boolean);

/** `problem`: why `ask` is not called. The result of `ask` gets its duration as `ms`. */
export async function runTool(app, state, { problem, ask }) {
  if (state.isBusy) return;
  Object.assign(state, { isBusy: !problem, error: problem });
  app.requestRender();
  if (problem) return;
  const began = performance.now();
  try {
    const result = await ask();
    state.result = { ...result, ms: performance.now() - began };
  } catch (error) {
    state.error = errorMessage(error);
  }
  state.isBusy = false;
  app.requestRender();
}

/** `name`: part of the keys of its texts. `result`: view of `state.result`. */
export const toolView = ({ name, model, state, run, fields, result }) => html`
  <div class="tool">
    <h2>${t(`playground.${name}.title`, { name: model.name })}</h2>
    <p class="soft">${t(`playground.${name}.text`)}</p>
    <form
      class="tool-form"
      @submit=${(event) => {
        event.preventDefault();
        run(model);
      }}
    >
      ${fields}
      <div class="buttons">
        <button class="button primary" aria-disabled=${state.isBusy ? 'true' : null}>
          ${t(state.isBusy ? 'playground.tool.running' : `playground.${name}.run`)}
        </button>
      </div>
    </form>
    ${alertBox(state.error)}
    ${
      state.result
        ? html`<section class="tool-result" aria-label=${t('playground.tool.result')}>
            ${result(state.result)}
          </section>`
        : null
    }
  </div>`;

/** Field for one text per line, kept in `state[key]`. */
export const linesField = (state, key, { label, hint, placeholder = null }) => html`
  <label class="field">
    <span>${label}</span>
    <textarea
      rows="6"
      placeholder=${placeholder}
      .value=${state[key]}
      @input=${(event) => {
        state[key] = event.target.value;
      }}
    ></textarea>
    <small>${hint}</small>
  </label>`;

/** `rows`: [{text, score, share}], of which `share`, from 0 to 1, is the length of the bar. */
export const scoreList = (rows) => html`
  <ol class="scores">
    ${rows.map(
      ({ text, score, share }) => html`
        <li class="score">
          <span class="score-text">${text}</span>
          <span class="score-value">${f.number(score, 3)}</span>
          ${progressBar(text, share, f.number(score, 3))}
        </li>`,
    )}
  </ol>`;
