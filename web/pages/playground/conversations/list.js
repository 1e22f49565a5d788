/** List of the user's conversations, with search, export and import. */

import { each, html, memo } from '../../../lib/html.js';
import { f, t } from '../../../core/i18n.js';
import { icon } from '../../../components/icons.js';
import { errorMessage } from '../../../components/feedback.js';
import { titleOf } from './conversation.js';

/**
 * `actions`: {create, search(text), open, rename, pin, remove, exportOne, exportAll, importFile}, each of a
 * summary. `menuOf`: id of the conversation whose menu is open.
 */
export const conversationList = ({ chat, menuOf, actions }) => html`
  <section class="conversation-list" aria-label=${t('playground.conversations')}>
    <button
      type="button"
      class="button wide"
      @click=${actions.create}
    >${icon('plus')}${t('playground.new')}</button>
    <label class="conversation-search">
      ${icon('search')}<span class="sr-only">${t('playground.search')}</span>
      <input
        type="search"
        class="control"
        placeholder=${t('playground.search')}
        autocomplete="off"
        .value=${chat.query}
        @input=${(event) => actions.search(event.target.value)}
      />
    </label>
    ${
      chat.summaries?.length
        ? html`<ul class="conversations">
          ${each(
            chat.summaries,
            ({ id }) => id,
            (summary) => {
              const isCurrent = summary.id === chat.current.id;
              const isRunning = isCurrent ? chat.isBusy : summary.running;
              const isOpen = menuOf === summary.id;
              return memo([summary, isCurrent, isRunning, isOpen], () =>
                item(summary, { isCurrent, isRunning, isOpen, actions }),
              );
            },
          )}
        </ul>`
        : html`<p class="soft conversation-none">${emptyText(chat)}</p>`
    }
    <div class="conversation-foot">
      <label class="button quiet small">
        ${icon('upload')}<span>${t('playground.import')}</span>
        <input
          class="sr-only"
          type="file"
          accept=".json,application/json"
          @change=${({ currentTarget }) => {
            if (currentTarget.files[0]) actions.importFile(currentTarget.files[0]);
            currentTarget.value = '';
          }}
        />
      </label>
      ${
        chat.summaries?.length
          ? html`<button type="button" class="button quiet small" @click=${actions.exportAll}>
              ${icon('download')}<span>${t('playground.export_all')}</span>
            </button>`
          : null
      }
    </div>
  </section>`;

function emptyText({ summaries, query, loadError }) {
  if (loadError) return errorMessage(loadError);
  if (!summaries) return t('common.loading');
  return t(query ? 'playground.search.none' : 'playground.no_conversations');
}

export const nameOf = (conversation) => titleOf(conversation) || t('playground.untitled');

const item = (summary, { isCurrent, isRunning, isOpen, actions }) => html`
  <li class=${isCurrent ? 'current' : ''}>
    <button
      type="button"
      class="conversation-open"
      aria-current=${isCurrent ? 'true' : null}
      @click=${() => actions.open(summary.id)}
    >
      <span class="conversation-title">
        ${summary.pinned ? icon('pin', 'pinned') : null}<span>${nameOf(summary)}</span>
        ${isRunning ? runningDot() : null}
      </span>
      <small>${summary.excerpt ?? f.ago(Date.parse(summary.updated_at) / 1000)}</small>
    </button>
    <button
      type="button"
      class="button quiet small square conversation-more"
      aria-label=${t('playground.more', { title: nameOf(summary) })}
      aria-expanded=${String(isOpen)}
      @click=${() => actions.toggleMenu(summary.id)}
    >${icon('more')}</button>
    ${isOpen ? menu(summary, actions) : null}
  </li>`;

const menu = (summary, actions) => html`
  <div class="conversation-menu" role="group" aria-label=${nameOf(summary)}>
    ${entry('edit', t('playground.rename.action'), () => actions.rename(summary))}
    ${entry('pin', t(summary.pinned ? 'playground.unpin' : 'playground.pin'), () => actions.pin(summary))}
    ${entry('download', t('playground.export.markdown'), () => actions.exportOne(summary, 'md'))}
    ${entry('download', t('playground.export.json'), () => actions.exportOne(summary, 'json'))}
    ${entry('trash', t('action.delete'), () => actions.remove(summary))}
  </div>`;

const entry = (iconName, text, run) => html`
  <button type="button" class="button quiet small" @click=${run}>
    ${icon(iconName)}<span>${text}</span>
  </button>`;

const runningDot = () => html`
  <i class="running-dot" title=${t('playground.writing')}></i>
  <span class="sr-only">${t('playground.writing')}</span>`;
