/** Try-out of a reranking model: which documents answer a question best. */

import { html } from '../../../lib/html.js';
import { f, t } from '../../../core/i18n.js';
import { alertBox, errorMessage } from '../../../components/feedback.js';
import { scoreRow } from './embedding.js';

const MAX_DOCUMENTS = 64;

export function createRerankTool(app) {
  const state = { query: '', documents: '', result: null, error: null, isBusy: false };

  async function run(event, model) {
    event.preventDefault();
    const documents = state.documents
      .split('\n')
      .map((line) => line.trim())
      .filter(Boolean)
      .slice(0, MAX_DOCUMENTS);
    const query = state.query.trim();
    if (state.isBusy || !query || !documents.length) {
      state.error = state.isBusy ? state.error : t('playground.rerank.both');
      return app.requestRender();
    }
    Object.assign(state, { isBusy: true, error: null });
    app.requestRender();
    const began = performance.now();
    try {
      const { results } = await app.api.post('/v1/rerank', { model: model.id, query, documents });
      const scores = results.map(({ index, relevance_score: score }) => ({ text: documents[index], score }));
      state.result = { scores, ms: performance.now() - began };
    } catch (error) {
      state.error = errorMessage(error);
    }
    state.isBusy = false;
    app.requestRender();
  }

  return {
    view: ({ model }) => html`
      <div class="tool">
        <h2>${t('playground.rerank.title', { name: model.name })}</h2>
        <p class="soft">${t('playground.rerank.text')}</p>
        <form class="tool-form" @submit=${(event) => run(event, model)}>
          <label class="field">
            <span>${t('playground.rerank.query')}</span>
            <input
              autocomplete="off"
              .value=${state.query}
              @input=${(event) => {
                state.query = event.target.value;
              }}
            />
          </label>
          <label class="field">
            <span>${t('playground.rerank.documents')}</span>
            <textarea
              rows="6"
              .value=${state.documents}
              @input=${(event) => {
                state.documents = event.target.value;
              }}
            ></textarea>
            <small>${t('playground.rerank.hint')}</small>
          </label>
          <div class="buttons">
            <button class="button primary" aria-disabled=${state.isBusy ? 'true' : null}>
              ${t(state.isBusy ? 'playground.tool.running' : 'playground.rerank.run')}
            </button>
          </div>
        </form>
        ${alertBox(state.error)} ${state.result ? resultView(state.result) : null}
      </div>`,
  };
}

function resultView({ scores, ms }) {
  const values = scores.map(({ score }) => score);
  const [low, high] = [Math.min(0, ...values), Math.max(1e-9, ...values)];
  return html`
    <section class="tool-result" aria-label=${t('playground.tool.result')}>
      <p class="soft">${t('playground.rerank.summary', { time: f.milliseconds(ms) })}</p>
      <ol class="scores">
        ${scores.map(({ text, score }) => scoreRow(text, score, (score - low) / (high - low)))}
      </ol>
    </section>`;
}
