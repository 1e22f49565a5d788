/** Messages of a conversation: questions as plain text, answers as Markdown with statistics. */

import { each, html, memo } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { copyButton } from '../../components/copy-button.js';
import { alertBox } from '../../components/feedback.js';
import { icon } from '../../components/icons.js';
import { isMarkdownLoaded, renderMarkdown } from '../../components/markdown.js';
import { progressBar } from '../../components/progress.js';
import { splitBlocks, splitThinking } from './markdown-blocks.js';

/**
 *   writing   whether the last message is being generated
 *   loading   {share} while its engine is loading
 *   can       whether a model is available
 *   actions   {regenerate, edit(index)}
 */
export const messageList = ({ messages, writing, loading, can, actions }) =>
  each(
    messages,
    (_, index) => index,
    (message, index) => {
      const isLast = index === messages.length - 1;
      if (message.role === 'user') {
        const asks = can && !writing;
        return memo([message, asks], () => question(message, { can: asks, edit: () => actions.edit(index) }));
      }
      const [isGrowing, canRegenerate] = [writing && isLast, can && isLast && !writing];
      const loadingState = isGrowing ? loading : null;
      // Messages are mutated while they are generated, so every field that may change is listed.
      return memo(
        [
          message,
          message.text,
          message.thinking,
          message.ended,
          isGrowing,
          canRegenerate,
          loadingState?.share,
          Boolean(loadingState),
          isMarkdownLoaded(),
        ],
        () => answer(message, { writing: isGrowing, loading: loadingState, isLast, canRegenerate, actions }),
      );
    },
  );

const question = (message, { can, edit }) => html`
  <div class="message question">
    <p class="sr-only">${t('playground.you')}</p>
    ${
      message.images?.length
        ? html`<ul class="thumbs">
          ${message.images.map(
            (url, at) => html`<li><img src=${url} alt=${t('playground.image', { number: at + 1 })} /></li>`,
          )}
        </ul>`
        : null
    }
    ${message.text ? html`<div class="message-text plain">${message.text}</div>` : null}
    <div class="message-footer">
      ${copyButton(() => message.text)}
      ${
        can
          ? html`<button
                type="button"
                class="button quiet small"
                @click=${edit}
              >${t('playground.edit')}</button>`
          : null
      }
    </div>
  </div>`;

function answer(message, { writing, loading, isLast, canRegenerate, actions }) {
  const { thinking, text } = splitThinking(message.text);
  const reasoningText = [message.thinking, thinking].filter(Boolean).join('\n');
  return html`
    <div class="message answer" aria-busy=${String(writing)}>
      <h2 class="sr-only">${t('playground.assistant')}</h2>
      ${
        reasoningText ? reasoning(reasoningText, writing && !text) : null
      } ${text ? responseText(text, writing) : null}
      ${writing && !text && !reasoningText ? waitingView(loading) : null} ${
        writing ? null : endNote(message, { isLast, canRegenerate, actions })
      }
      ${
        writing
          ? null
          : html`
            <div class="message-footer">
              ${stats(message)} ${text ? copyButton(() => text) : null}
              ${
                canRegenerate && !isInterrupted(message)
                  ? html`<button type="button" class="button quiet small" @click=${actions.regenerate}>
                    ${icon('refresh')}${t('playground.again')}
                  </button>`
                  : null
              }
            </div>`
      }
    </div>`;
}

/** Renders finished blocks once; only the last one is rendered again while it grows. */
function responseText(text, writing) {
  if (!isMarkdownLoaded()) return html`<div class="message-text plain">${text}</div>`;
  const parts = splitBlocks(text);
  return html`
    <div class="message-text">
      ${each(
        parts,
        (_, at) => at,
        (block, at) => {
          const finished = !writing || at < parts.length - 1;
          return memo(
            [block, finished],
            () => html`<div>${renderMarkdown(block, { highlighted: finished })}</div>`,
          );
        },
      )}
    </div>`;
}

const reasoning = (text, busy) => html`
  <details class="reasoning">
    <summary>${t(busy ? 'playground.thinking' : 'playground.thoughts')}</summary>
    <div class="plain">${text}</div>
  </details>`;

const waitingView = (loading) =>
  loading
    ? html`
        <div class="message-waiting">
          <p>${
            loading.share === null
              ? t('playground.loading')
              : t('playground.loading_at', { percent: f.percent(loading.share) })
          }</p>
          ${progressBar(t('playground.loading'), loading.share)}
        </div>`
    : html`
        <p class="message-waiting dots">
          <span class="sr-only">${t('playground.writing')}</span><i></i><i></i><i></i>
        </p>`;

/** A message without an end state was being generated when the page was closed. */
const isInterrupted = ({ ended }) => ended === undefined || ended === 'interrupted';

const END_NOTES = { stopped: 'playground.ended.stopped', length: 'playground.ended.length' };

function endNote(message, { isLast, canRegenerate, actions }) {
  const { text, ended, error } = message;
  if (!isInterrupted(message)) {
    return Object.hasOwn(END_NOTES, ended) ? html`<p class="message-end">${t(END_NOTES[ended])}</p>` : null;
  }
  const reason = [text || !error ? t('playground.ended.interrupted') : null, error].filter(Boolean).join(' ');
  if (!isLast) return html`<p class="message-end">${reason}</p>`;
  const retry = html`
    <button
      type="button"
      class="button small"
      @click=${actions.regenerate}
    >${icon('refresh')}${t('action.retry')}</button>`;
  return alertBox(reason, canRegenerate ? retry : null);
}

function stats({ stats: known, model }) {
  if (!known) return null;
  const { tokensPerSecond, firstTokenMs, promptTokens, cachedTokens, completionTokens } = known;
  const figures = [
    tokensPerSecond === null ? null : t('playground.speed', { rate: f.number(tokensPerSecond, 1) }),
    firstTokenMs === null ? null : t('playground.first_token', { time: f.milliseconds(firstTokenMs) }),
    promptTokens === null ? null : t('playground.prompt_tokens', { tokens: f.number(promptTokens) }),
    cachedTokens ? t('playground.cached_tokens', { tokens: f.number(cachedTokens) }) : null,
    completionTokens === null
      ? null
      : t('playground.completion_tokens', { tokens: f.number(completionTokens) }),
  ].filter(Boolean);
  return html`<ul class="message-stats" aria-label=${t('playground.stats', { model })}>
    ${figures.map((text) => html`<li>${text}</li>`)}
  </ul>`;
}
