/** Try-out of an embedding model: how similar texts are to the first. */

import { html } from '../../../lib/html.js';
import { f, t } from '../../../core/i18n.js';
import { alertBox, errorMessage } from '../../../components/feedback.js';
import { progressBar } from '../../../components/progress.js';

const MAX_TEXTS = 64;

export function createEmbeddingTool(app) {
  const state = { texts: '', result: null, error: null, isBusy: false };

  async function run(event, model) {
    event.preventDefault();
    const texts = state.texts
      .split('\n')
      .map((line) => line.trim())
      .filter(Boolean)
      .slice(0, MAX_TEXTS);
    if (state.isBusy || texts.length < 2) {
      state.error = texts.length < 2 ? t('playground.embedding.two') : state.error;
      return app.requestRender();
    }
    Object.assign(state, { isBusy: true, error: null });
    app.requestRender();
    const began = performance.now();
    try {
      const { data, usage } = await app.api.post('/v1/embeddings', { model: model.id, input: texts });
      const vectors = data.map(({ embedding }) => embedding);
      state.result = {
        texts,
        dimensions: vectors[0].length,
        tokens: usage?.prompt_tokens ?? null,
        ms: performance.now() - began,
        similarities: vectors.map((vector) => cosine(vectors[0], vector)),
      };
    } catch (error) {
      state.error = errorMessage(error);
    }
    state.isBusy = false;
    app.requestRender();
  }

  return {
    view: ({ model }) => html`
      <div class="tool">
        <h2>${t('playground.embedding.title', { name: model.name })}</h2>
        <p class="soft">${t('playground.embedding.text')}</p>
        <form class="tool-form" @submit=${(event) => run(event, model)}>
          <label class="field">
            <span>${t('playground.embedding.texts')}</span>
            <textarea
              rows="6"
              placeholder=${t('playground.embedding.example')}
              .value=${state.texts}
              @input=${(event) => {
                state.texts = event.target.value;
              }}
            ></textarea>
            <small>${t('playground.embedding.hint')}</small>
          </label>
          <div class="buttons">
            <button class="button primary" aria-disabled=${state.isBusy ? 'true' : null}>
              ${t(state.isBusy ? 'playground.tool.running' : 'playground.embedding.run')}
            </button>
          </div>
        </form>
        ${alertBox(state.error)} ${state.result ? resultView(state.result) : null}
      </div>`,
  };
}

const resultView = ({ texts, similarities, dimensions, tokens, ms }) => html`
  <section class="tool-result" aria-label=${t('playground.tool.result')}>
    <p class="soft">
      ${t('playground.embedding.summary', {
        dimensions: f.number(dimensions),
        tokens: f.number(tokens),
        time: f.milliseconds(ms),
      })}
    </p>
    <ol class="scores">
      ${texts.map((text, at) => scoreRow(text, similarities[at], Math.max(0, similarities[at])))}
    </ol>
  </section>`;

/** `share` from 0 to 1: length of the bar. */
export const scoreRow = (text, score, share) => html`
  <li class="score">
    <span class="score-text">${text}</span>
    <span class="score-value">${f.number(score, 3)}</span>
    ${progressBar(text, share, f.number(score, 3))}
  </li>`;

/** Cosine of the angle between two vectors; 0 if one has no length. */
export function cosine(a, b) {
  let [dot, aa, bb] = [0, 0, 0];
  for (let at = 0; at < a.length; at += 1) {
    dot += a[at] * b[at];
    aa += a[at] ** 2;
    bb += b[at] ** 2;
  }
  return aa && bb ? dot / Math.sqrt(aa * bb) : 0;
}
