/** Try-out of an embedding model: how similar texts are to the first. */

import { html } from '../../../lib/html.js';
import { f, t } from '../../../core/i18n.js';
import { linesField, linesOf, runTool, scoreList, toolView } from './tool.js';

export function createEmbeddingTool(app) {
  const state = { texts: '', result: null, error: null, isBusy: false };

  function run(model) {
    const texts = linesOf(state.texts);
    return runTool(app, state, {
      problem: texts.length < 2 ? t('playground.embedding.two') : null,
      async ask() {
        const { data, usage } = await app.api.post('/v1/embeddings', { model: model.id, input: texts });
        const vectors = data.map(({ embedding }) => embedding);
        return {
          texts,
          dimensions: vectors[0].length,
          tokens: usage?.prompt_tokens ?? null,
          similarities: vectors.map((vector) => cosine(vectors[0], vector)),
        };
      },
    });
  }

  return {
    view: ({ model }) =>
      toolView({
        name: 'embedding',
        model,
        state,
        run,
        fields: linesField(state, 'texts', {
          label: t('playground.embedding.texts'),
          hint: t('playground.embedding.hint'),
          placeholder: t('playground.embedding.example'),
        }),
        result: resultView,
      }),
  };
}

const resultView = ({ texts, similarities, dimensions, tokens, ms }) => html`
  <p class="soft">
    ${t('playground.embedding.summary', {
      dimensions: f.number(dimensions),
      tokens: f.number(tokens),
      time: f.milliseconds(ms),
    })}
  </p>
  ${scoreList(
    texts.map((text, at) => ({ text, score: similarities[at], share: Math.max(0, similarities[at]) })),
  )}`;

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
