/** Figures below an answer: speed, time to the first token, tokens, node. */

import { html } from '../../../lib/html.js';
import { f, t } from '../../../core/i18n.js';

export function messageStats({ stats, model }, { withModel }) {
  if (!stats) return null;
  const figures = [
    stats.tokens_per_second ? t('playground.speed', { rate: f.number(stats.tokens_per_second, 1) }) : null,
    withModel ? model : null,
    stats.first_token_ms === null
      ? null
      : t('playground.first_token', { time: f.milliseconds(stats.first_token_ms) }),
    stats.prompt_tokens === null
      ? null
      : t('playground.prompt_tokens', { tokens: f.number(stats.prompt_tokens) }),
    stats.cached_tokens ? t('playground.cached_tokens', { tokens: f.number(stats.cached_tokens) }) : null,
    stats.completion_tokens === null
      ? null
      : t('playground.completion_tokens', { tokens: f.number(stats.completion_tokens) }),
    stats.node ? t('playground.on_node', { node: stats.node }) : null,
  ].filter(Boolean);
  if (!figures.length) return null;
  return html`<ul class="message-stats" aria-label=${t('playground.stats', { model: model ?? '' })}>
    ${figures.map((text) => html`<li>${text}</li>`)}
  </ul>`;
}

/** Speed of an answer that is being generated; null until there are two tokens. */
export function liveRate({ live }) {
  if (!live || live.tokens < 2 || !live.elapsedMs) return null;
  return ((live.tokens - 1) * 1000) / live.elapsedMs;
}
