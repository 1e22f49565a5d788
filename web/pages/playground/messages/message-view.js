/** Messages of a conversation: questions as plain text, answers as Markdown with statistics. */

import { each, html, memo } from '../../../lib/html.js';
import { f, t } from '../../../core/i18n.js';
import { copyButton } from '../../../components/copy-button.js';
import { alertBox, errorMessage } from '../../../components/feedback.js';
import { icon } from '../../../components/icons.js';
import { isMarkdownLoaded, renderMarkdown } from '../../../components/markdown.js';
import { progressBar } from '../../../components/progress.js';
import { splitBlocks, splitThinking } from './markdown-blocks.js';
import { liveRate, messageStats } from './message-stats.js';

/**
 *   versions     (message) → its versions
 *   loading      {share} while the engine of the last answer is loading
 *   can          whether a model is available, and nothing is being generated
 *   withModel    whether answers name their model
 *   actions      {regenerate, regenerateShorter, continueAnswer, edit, remove, showVersion}, of a message
 */
export const messageList = (messages, { versions, loading, can, withModel, actions }) =>
  each(
    messages,
    ({ id }) => id,
    (message) => {
      const isLast = message === messages.at(-1);
      const siblings = versions(message);
      const version = { at: siblings.indexOf(message), all: siblings };
      const loadingState = message.isRunning && isLast ? loading : null;
      // Messages are mutated while they are generated, so every field that may change is listed.
      return memo(
        [
          message,
          message.text,
          message.reasoning,
          message.ended,
          message.error,
          message.isRunning,
          message.live?.tokens,
          message.unsaved,
          can,
          isLast,
          version.at,
          siblings.length,
          withModel,
          loadingState?.share,
          Boolean(loadingState),
          isMarkdownLoaded(),
        ],
        () => {
          const view = message.role === 'user' ? question : answer;
          return view(message, { loading: loadingState, isLast, can, withModel, version, actions });
        },
      );
    },
  );

const question = (message, { can, isLast, version, actions }) => html`
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
    ${message.files?.length ? html`<ul class="attached-files">${message.files.map(fileView)}</ul>` : null}
    ${message.text ? html`<div class="message-text plain">${message.text}</div>` : null}
    <div class="message-footer">
      ${versionSwitch(message, version, actions)}
      ${copyButton(() => message.text)}
      ${
        can
          ? html`
              ${action('edit', 'playground.edit', () => actions.edit(message))}
              ${
                isLast
                  ? action('refresh', 'playground.answer', () => actions.regenerate(message), true)
                  : null
              }
              ${action('trash', 'playground.delete_message', () => actions.remove(message))}`
          : null
      }
    </div>
  </div>`;

const fileView = ({ name, text }) => html`
  <li class="attached-file">
    <details>
      <summary>${icon('file')}<span>${name}</span><small>${f.bytes(new Blob([text]).size)}</small></summary>
      <pre class="plain">${text}</pre>
    </details>
  </li>`;

/** Button of a message. Its text is hidden by the style sheet where `isWide` is false. */
const action = (iconName, key, run, isWide = false) => html`
  <button type="button" class="button quiet small ${isWide ? '' : 'brief'}" title=${t(key)} @click=${run}>
    ${icon(iconName)}<span>${t(key)}</span>
  </button>`;

/** "‹ 2/3 ›", or nothing for a single version. */
function versionSwitch(message, { at, all }, actions) {
  if (all.length < 2) return null;
  const step = (by, key, sign) => html`
    <button
      type="button"
      class="button quiet small square"
      aria-label=${t(key)}
      title=${t(key)}
      aria-disabled=${all[at + by] ? null : 'true'}
      @click=${() => all[at + by] && actions.showVersion(all[at + by])}
    >${sign}</button>`;
  return html`
    <span class="versions" role="group" aria-label=${t('playground.versions')}>
      ${step(-1, 'playground.version.previous', '‹')}
      <span>${t('playground.version', { number: at + 1, count: all.length })}</span>
      ${step(1, 'playground.version.next', '›')}
    </span>`;
}

function answer(message, { loading, isLast, can, withModel, version, actions }) {
  const { thinking, text } = splitThinking(message.text);
  const reasoningText = [message.reasoning, thinking].filter(Boolean).join('\n');
  const writing = Boolean(message.isRunning);
  return html`
    <div class="message answer" aria-busy=${String(writing)}>
      <h2 class="sr-only">${t('playground.assistant')}</h2>
      ${reasoningText ? reasoning(reasoningText, writing && !text) : null}
      ${text ? responseText(text, writing) : null}
      ${writing && !text && !reasoningText ? waitingView(loading) : null}
      ${writing ? liveView(message) : endNote(message, { isLast, can, actions })}
      ${
        writing
          ? null
          : html`
            <div class="message-footer">
              ${messageStats(message, { withModel })}
              ${versionSwitch(message, version, actions)}
              ${text ? copyButton(() => text) : null}
              ${
                can
                  ? html`
                      ${
                        isInterrupted(message) && isLast
                          ? null
                          : action('refresh', 'playground.again', () => actions.regenerate(message))
                      }
                      ${
                        isLast && text && message.ended !== 'stop' && !message.unsaved
                          ? action('next', 'playground.continue', () => actions.continueAnswer(message), true)
                          : null
                      }
                      ${action('trash', 'playground.delete_message', () => actions.remove(message))}`
                  : null
              }
            </div>`
      }
    </div>`;
}

function liveView(message) {
  const rate = liveRate(message);
  return rate
    ? html`<p class="message-live">${t('playground.speed', { rate: f.number(rate, 1) })}</p>`
    : null;
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
            () => html`<div>${renderMarkdown(block, { isGrowing: !finished })}</div>`,
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

/** A message without an end state was being generated when the server crashed. */
const isInterrupted = ({ ended }) => ended === null || ended === 'interrupted';

const END_NOTES = { stopped: 'playground.ended.stopped', length: 'playground.ended.length' };

function endNote(message, { isLast, can, actions }) {
  const { text, ended, error } = message;
  if (!isInterrupted(message)) {
    return Object.hasOwn(END_NOTES, ended) ? html`<p class="message-end">${t(END_NOTES[ended])}</p>` : null;
  }
  const reason = [
    text || !error ? t('playground.ended.interrupted') : null,
    error ? errorMessage({ ...error, retryAfter: error.retry_after_s, details: error }) : null,
  ]
    .filter(Boolean)
    .join(' ');
  if (!isLast) return html`<p class="message-end">${reason}</p>`;
  if (!can) return alertBox(reason);
  const isTooLong = error?.code === 'context_length_exceeded' && error.prompt_tokens;
  return alertBox(
    reason,
    isTooLong
      ? button('playground.drop_oldest', () => actions.regenerateShorter(message))
      : button('action.retry', () => actions.regenerate(message)),
  );
}

const button = (key, run) => html`
  <button type="button" class="button small" @click=${run}>${icon('refresh')}${t(key)}</button>`;
