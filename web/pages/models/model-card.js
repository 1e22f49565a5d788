/** Model card of the hub: description, memory check and the next action. */

import { html, memo } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { fitBadge, statusBadge } from '../../components/badges.js';
import { progressBar } from '../../components/progress.js';
import { alertBox, errorMessage } from '../../components/feedback.js';
import { icon } from '../../components/icons.js';
import { busyAttribute } from './actions.js';
import { locationSummary } from './replica-locations.js';

/**
 *   actionState   result of `actions.of`
 *   shown         whether it passes the filters
 *   canManage     whether the user may change models
 *   offline       ids of the offline nodes, separated by spaces; null for a single node
 *
 * The content is rendered only when one of these changes, because filters toggle hundreds of cards at a time.
 */
export const modelCard = (app, actions, item, { actionState, shown, canManage, offline }) => html`
  <article
    class="card model"
    aria-labelledby=${headingOf(item)}
    tabindex="-1"
    data-model=${item.model.id}
    ?hidden=${!shown}
  >
    ${memo([item, actionState, canManage, offline], () =>
      content(app, actions, item, actionState, canManage, offline),
    )}
  </article>`;

const headingOf = ({ model }) => `model-${model.id}`;

function content(app, actions, item, actionState, canManage, offline) {
  const { model } = item;
  return html`
    <div class="model-head">
      <div>
        <h2 id=${headingOf(item)}>${model.name}</h2>
        <p class="model-repo">${model.repo}</p>
      </div>
      ${statusBadge(item.status)}
    </div>
    ${model.description ? html`<p class="description">${model.description}</p>` : null}
    <dl class="facts">
      ${fact(t('model.size'), f.bytes(model.size_bytes))} ${fact(
        t('model.memory'),
        f.bytes(model.required_memory_bytes),
      )}
      ${fact(
        t('model.parameters'),
        model.parameter_count,
      )} ${fact(t('model.quantization'), model.quantization)}
      ${fact(
        t('model.context'),
        model.context_length && t('model.tokens', { count: f.tokens(model.context_length) }),
      )}
    </dl>
    <ul class="chips" aria-label=${t('model.about')}>
      ${model.capabilities.map((name) => html`<li class="chip">${t(`capability.${name}`)}</li>`)}
      ${model.tags.map((tag) => html`<li class="chip">${tag}</li>`)}
    </ul>
    <div class="model-foot">
      ${offline === null ? null : locationSummary(item, offline.split(' '))}
      ${item.supported ? null : html`<p class="note">${t('model.unsupported')}</p>`}
      ${actionsByStatus[item.status](app, actions, item, actionState, canManage)}
      ${actionState.error ? alertBox(errorMessage(actionState.error)) : null}
    </div>`;
}

const fact = (name, value) => (value ? html`<div><dt>${name}</dt><dd>${value}</dd></div>` : null);

/** Line above the action: memory check and popularity. */
const fitLine = ({ fit, hf_stats: stats }) => html`
  <div class="model-line">
    ${fitBadge(fit)}
    ${
      stats
        ? html`
          <p class="popularity">
            <span title=${t('model.downloads')}>
              ${icon('download')}
              <span class="sr-only">${t('model.downloads')}: </span>${f.compact(stats.downloads)}
            </span>
            <span title=${t('model.stars')}>
              ${icon('star')}
              <span class="sr-only">${t('model.stars')}: </span>${f.compact(stats.stars)}
            </span>
          </p>`
        : null
    }
  </div>`;

/**
 * Actions by status. Except for Error, each is one line and one row of buttons high, so that a card does not
 * grow under the pointer.
 */
const actionsByStatus = {
  Available: (app, actions, item, actionState, canManage) => html`
    ${fitLine(item)}
    <div class="model-actions">
      ${
        canManage
          ? html`
            <button
              type="button"
              class="button wide ${item.fit.verdict === 'too_large' ? '' : 'tinted'}"
              aria-disabled=${busyAttribute(actionState)}
              @click=${() => actions.pull(item.model.id)}
            >
              ${icon('download')}${t('action.pull')}
            </button>`
          : html`<p class="soft">${t('model.ask_admin')}</p>`
      }
    </div>`,

  Registered: (app, actions, item, actionState, canManage) => html`
    <p class="model-line soft">${item.error ?? t('model.waiting')}</p>
    <div class="model-actions">
      ${progressBar(t('model.progress', { name: item.model.name }), 0, t('status.Registered'))}
      ${cancelButton(actions, item, actionState, canManage)}
    </div>`,

  Downloading: (app, actions, item, actionState, canManage) => html`
    ${downloadNumbers(item)}
    <div class="model-actions">
      ${progressBar(
        t('model.progress', { name: item.model.name }),
        item.download_progress ?? 0,
        progressText(item),
      )}
      ${cancelButton(actions, item, actionState, canManage)}
    </div>
    ${item.error ? html`<p class="soft">${item.error}</p>` : null}`,

  Ready: (app, actions, item) => html`
    ${fitLine(item)}
    <div class="model-actions">
      <span class="ready">${icon('check')}${readyText(item)}</span>
      ${
        isChat(item.model)
          ? html`<button
                type="button"
                class="button primary"
                @click=${() => openInPlayground(app, item.model)}
              >
            ${icon('playground')}${t('action.try')}
          </button>`
          : null
      }
    </div>`,

  Error: (app, actions, item, actionState, canManage) => html`
    ${alertBox(item.error ?? t('model.failed'))}
    ${
      canManage
        ? html`
          <div class="model-actions">
            <button
              type="button"
              class="button primary"
              aria-disabled=${busyAttribute(actionState)}
              @click=${() => actions.pull(item.model.id)}
            >
              ${icon('refresh')}${t('action.retry')}
            </button>
            ${cancelButton(actions, item, actionState, canManage)}
          </div>`
        : null
    }`,
};

function readyText({ available_nodes: count, replicas }) {
  const all = replicas.filter(({ state }) => state !== 'deleting').length;
  return count < all ? t('model.on_some', { count, all }) : t('model.on_nodes', { count });
}

const cancelButton = (actions, { model }, actionState, canManage) =>
  canManage
    ? html`<button
          type="button"
          class="button"
          aria-disabled=${busyAttribute(actionState)}
          @click=${() => actions.cancel(model.id)}
        >
        ${t('action.cancel')}
      </button>`
    : null;

/** Whether it can be used in the Playground. */
export const isChat = (model) => model.capabilities.includes('TextGeneration');

export const openInPlayground = (app, model) => app.go(`/playground?model=${encodeURIComponent(model.id)}`);

const isVerifying = ({ replicas, download_progress: progress }) =>
  progress >= 1 || replicas.some(({ state }) => state === 'verifying');

function downloadNumbers(item) {
  const {
    download_progress: progress,
    downloaded_bytes: got,
    total_bytes: total,
    bytes_per_second: rate,
  } = item;
  const amount = got === null ? '' : t('model.of', { downloaded: f.bytes(got), total: f.bytes(total) });
  const pace = rate ? `${f.rate(rate)}${left(item)}` : '';
  return html`
    <p class="model-line numbers">
      <span><strong>${f.percent(progress)}</strong> ${amount}</span><span>${
        isVerifying(item) ? t('model.verifying') : pace
      }</span>
    </p>`;
}

const left = ({ eta_seconds: seconds }) =>
  seconds === null || seconds === undefined ? '' : ` · ${t('model.left', { time: f.duration(seconds) })}`;

const progressText = (item) =>
  isVerifying(item) ? t('model.verifying') : `${f.percent(item.download_progress)}${left(item)}`;
