/** What was said: questions as they were typed, answers as Markdown, and how quick they were. */

import { each, html, memo } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { copyButton } from '../../components/copy-button.js';
import { alertBox } from '../../components/feedback.js';
import { icon } from '../../components/icons.js';
import { canMarkdown, markdown } from '../../components/markdown.js';
import { progressBar } from '../../components/progress.js';
import { blocks, splitThinking } from './markdown-blocks.js';

/**
 * `writing`: whether the last message is being written. `loading`: {share} while its engine is being loaded. `can`:
 * whether there is a model to ask. `act`: {regenerate, edit(index)}.
 */
export const messageList = ({ messages, writing, loading, can, act }) =>
  each(
    messages,
    (_, index) => index,
    (message, index) => {
      const isLast = index === messages.length - 1;
      if (message.role === 'user') {
        const asks = can && !writing;
        return memo([message, asks], () => question(message, { can: asks, edit: () => act.edit(index) }));
      }
      const [grows, again] = [writing && isLast, can && isLast && !writing];
      const waits = grows ? loading : null;
      // A message is changed in place while it is written: what of it may change is named.
      return memo(
        [message, message.text, message.thinking, message.ended, grows, again, waits?.share, Boolean(waits), canMarkdown()],
        () => answer(message, { writing: grows, loading: waits, isLast, again, act }),
      );
    },
  );

const question = (message, { can, edit }) => html`
  <div class="said question">
    <p class="sr-only">${t('playground.you')}</p>
    ${message.images?.length
      ? html`<ul class="thumbs">
          ${message.images.map((url, at) => html`<li><img src=${url} alt=${t('playground.image', { number: at + 1 })} /></li>`)}
        </ul>`
      : null}
    ${message.text ? html`<div class="said-text plain">${message.text}</div>` : null}
    <div class="said-foot">
      ${copyButton(() => message.text)}
      ${can ? html`<button type="button" class="button quiet small" @click=${edit}>${t('playground.edit')}</button>` : null}
    </div>
  </div>`;

function answer(message, { writing, loading, isLast, again, act }) {
  const { thinking, text } = splitThinking(message.text);
  const thought = [message.thinking, thinking].filter(Boolean).join('\n');
  return html`
    <div class="said answer" aria-busy=${String(writing)}>
      <h2 class="sr-only">${t('playground.assistant')}</h2>
      ${thought ? thoughts(thought, writing && !text) : null} ${text ? prose(text, writing) : null}
      ${writing && !text && !thought ? waiting(loading) : null} ${writing ? null : ending(message, { isLast, again, act })}
      ${writing
        ? null
        : html`
            <div class="said-foot">
              ${stats(message)} ${text ? copyButton(() => text) : null}
              ${again && !isBroken(message)
                ? html`<button type="button" class="button quiet small" @click=${act.regenerate}>
                    ${icon('refresh')}${t('playground.again')}
                  </button>`
                : null}
            </div>`}
    </div>`;
}

/** Finished blocks are drawn once; only the last one is drawn again while it grows. */
function prose(text, writing) {
  if (!canMarkdown()) return html`<div class="said-text plain">${text}</div>`;
  const parts = blocks(text);
  return html`
    <div class="said-text">
      ${each(
        parts,
        (_, at) => at,
        (block, at) => {
          const finished = !writing || at < parts.length - 1;
          return memo([block, finished], () => html`<div>${markdown(block, { highlighted: finished })}</div>`);
        },
      )}
    </div>`;
}

const thoughts = (text, busy) => html`
  <details class="thoughts">
    <summary>${t(busy ? 'playground.thinking' : 'playground.thoughts')}</summary>
    <div class="plain">${text}</div>
  </details>`;

const waiting = (loading) =>
  loading
    ? html`
        <div class="said-wait">
          <p>${loading.share === null ? t('playground.loading') : t('playground.loading_at', { percent: f.percent(loading.share) })}</p>
          ${progressBar(t('playground.loading'), loading.share)}
        </div>`
    : html`<p class="said-wait dots"><span class="sr-only">${t('playground.writing')}</span><i></i><i></i><i></i></p>`;

/** One that nobody said the end of was being written when the page was closed. */
const isBroken = ({ ended }) => ended === undefined || ended === 'interrupted';

const REMARKS = { stopped: 'playground.ended.stopped', length: 'playground.ended.length' };

function ending(message, { isLast, again, act }) {
  const { text, ended, error } = message;
  if (!isBroken(message)) {
    return Object.hasOwn(REMARKS, ended) ? html`<p class="said-ended">${t(REMARKS[ended])}</p>` : null;
  }
  const reason = [text || !error ? t('playground.ended.interrupted') : null, error].filter(Boolean).join(' ');
  if (!isLast) return html`<p class="said-ended">${reason}</p>`;
  const retry = html`
    <button type="button" class="button small" @click=${act.regenerate}>${icon('refresh')}${t('action.retry')}</button>`;
  return alertBox(reason, again ? retry : null);
}

function stats({ stats: known, model }) {
  if (!known) return null;
  const { tokensPerSecond, firstTokenMs, promptTokens, cachedTokens, completionTokens } = known;
  const told = [
    tokensPerSecond === null ? null : t('playground.speed', { rate: f.number(tokensPerSecond, 1) }),
    firstTokenMs === null ? null : t('playground.first_token', { time: f.milliseconds(firstTokenMs) }),
    promptTokens === null ? null : t('playground.prompt_tokens', { tokens: f.number(promptTokens) }),
    cachedTokens ? t('playground.cached_tokens', { tokens: f.number(cachedTokens) }) : null,
    completionTokens === null ? null : t('playground.completion_tokens', { tokens: f.number(completionTokens) }),
  ].filter(Boolean);
  return html`<ul class="said-stats" aria-label=${t('playground.stats', { model })}>
    ${told.map((text) => html`<li>${text}</li>`)}
  </ul>`;
}
