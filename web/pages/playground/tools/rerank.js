/** Try-out of a reranking model: which documents answer a question best. */

import { html } from '../../../lib/html.js';
import { f, t } from '../../../core/i18n.js';
import { linesField, linesOf, runTool, scoreList, toolView } from './tool.js';

export function createRerankTool(app) {
  const state = { query: '', documents: '', result: null, error: null, isBusy: false };

  function run(model) {
    const documents = linesOf(state.documents);
    const query = state.query.trim();
    return runTool(app, state, {
      problem: query && documents.length ? null : t('playground.rerank.both'),
      async ask() {
        const { results } = await app.api.post('/v1/rerank', { model: model.id, query, documents });
        return {
          scores: results.map(({ index, relevance_score: score }) => ({ text: documents[index], score })),
        };
      },
    });
  }

  return {
    view: ({ model }) =>
      toolView({
        name: 'rerank',
        model,
        state,
        run,
        fields: html`
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
          ${linesField(state, 'documents', {
            label: t('playground.rerank.documents'),
            hint: t('playground.rerank.hint'),
          })}`,
        result: resultView,
      }),
  };
}

function resultView({ scores, ms }) {
  const values = scores.map(({ score }) => score);
  const [low, high] = [Math.min(0, ...values), Math.max(1e-9, ...values)];
  return html`
    <p class="soft">${t('playground.rerank.summary', { time: f.milliseconds(ms) })}</p>
    ${scoreList(scores.map(({ text, score }) => ({ text, score, share: (score - low) / (high - low) })))}`;
}
