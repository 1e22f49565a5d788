/** Row of the Model Hub: name and description or progress, figures in columns, and the next action. */

import { html, memo } from '../../lib/html.js';
import { descriptionOf, errorTextOf, f, t } from '../../core/i18n.js';
import { modelPath } from '../../core/router.js';
import { badge, fitText, modelBadge } from '../../components/badges.js';
import { progressBar } from '../../components/progress.js';
import { engineBadge, isServing } from '../../components/engine-status.js';
import { alertBox, errorMessage } from '../../components/feedback.js';
import { icon } from '../../components/icons.js';
import { busyAttribute } from './actions.js';
import { canTry, isChat, isPaused } from './groups.js';
import { locationSummary } from './replica-locations.js';

/**
 *   actionState   result of `actions.of`
 *   shown         whether it passes the filters
 *   canManage     whether the user may change models
 *   offline       ids of the offline nodes, separated by spaces; null for a single node
 *   largest       memory that the bar is relative to, or null
 *   folded        whether only name and memory are shown
 *   next          makes a queued download the next one, or null
 *
 * The content is rendered only when one of these changes, because filters toggle hundreds of rows at a time.
 */
export const modelRow = (app, actions, item, options) => {
  const { actionState, shown, canManage, offline, largest, folded, next = null } = options;
  return html`
    <article
      class="model ${folded ? 'folded' : ''}"
      aria-labelledby=${headingOf(item)}
      tabindex="-1"
      data-model=${item.model.id}
      ?hidden=${!shown}
    >
      ${memo([item, actionState, canManage, offline, largest, folded, Boolean(next)], () =>
        content(app, actions, item, options),
      )}
    </article>`;
};

const headingOf = ({ model }) => `model-${model.id}`;

function content(app, actions, item, options) {
  const { model } = item;
  const { actionState, folded } = options;
  return html`
    <div class="model-name">
      <h3 id=${headingOf(item)}><a href=${modelPath(model.id)}>${model.name}</a></h3>
      ${stateBadges(item)}
    </div>
    ${folded ? null : html`<div class="model-line">${modelLine(item, options)}</div>`}
    ${folded ? null : abilities(model)}
    <p class="model-size"><span class="sr-only">${t('model.size')}: </span>${f.bytes(model.size_bytes)}</p>
    ${memoryCell(item, options)}
    <p class="model-context">
      <span class="sr-only">${t('model.context')}: </span>${f.tokens(model.context_length)}
    </p>
    ${popularity(item)}
    <div class="model-actions">${modelActions(app, actions, item, options)}</div>
    ${
      actionState.error
        ? html`<div class="model-alert">${alertBox(errorMessage(actionState.error))}</div>`
        : null
    }`;
}

/** Status of the API, or `Paused`. */
const stateOf = (item) => (isPaused(item) ? 'Paused' : item.status);

// --- name and second line ----------------------------------------------------------------------------

/** The actions that the status of a model allows. */
export const modelActions = (app, actions, item, options) =>
  actionsByStatus[stateOf(item)](app, actions, item, options);

/** Badges for exceptions. Of a model that can simply be pulled only screen readers hear the status. */
export function stateBadges(item) {
  const engines = item.replicas.map(({ engine }) => engine).filter(Boolean);
  return html`
    ${statusPart(item, engines)}
    ${item.fit.verdict === 'tight' ? badge('fit-tight', t('fit.tight')) : null}
    ${item.supported ? null : badge('waiting', t('local.unsupported'))}`;
}

function statusPart(item, engines) {
  if (isPaused(item)) {
    const { downloaded_bytes: got, total_bytes: total } = item.partial;
    return badge('waiting', t('model.paused_at', { percent: f.percent(total ? got / total : 0) }), 'pause');
  }
  if (item.status === 'Available' || item.status === 'Ready')
    return html`
      <span class="sr-only">${t(`status.${item.status}`)}</span>
      ${engines.some(isServing) ? engineBadge(engines) : null}`;
  return modelBadge(item.status);
}

/** Second line of a row: progress or location, else the description. */
export function modelLine(item, { offline }) {
  const places = offline === null ? null : locationSummary(item, offline.split(' '));
  switch (stateOf(item)) {
    case 'Registered':
      return html`
        ${progressBar(t('model.progress', { name: item.model.name }), 0, t('status.Registered'))}
        <span class="model-reason">${errorTextOf(item) ?? t('model.waiting')}</span>${places}`;
    case 'Downloading':
      return html`
        ${progressBar(
          t('model.progress', { name: item.model.name }),
          item.download_progress ?? 0,
          progressText(item),
        )}
        <span class="model-numbers">${downloadNumbers(item)}</span>
        ${item.error ? html`<span class="model-reason">${errorTextOf(item)}</span>` : null}${places}`;
    case 'Paused':
      return html`<span>${t('model.kept', { size: f.bytes(item.partial.disk_bytes) })}</span>${places}`;
    case 'Error':
      return html`${alertBox(errorTextOf(item) ?? t('model.failed'))}${places}`;
    case 'Ready':
      return html`
        <span class="ready">${icon('check')}${readyText(item)}</span>${places}
        ${offline === null ? html`<span class="description">${descriptionOf(item.model)}</span>` : null}`;
    default:
      return html`${places}<span class="description">${descriptionOf(item.model)}</span>`;
  }
}

function readyText({ available_nodes: count, replicas }) {
  const all = replicas.filter(({ state }) => state !== 'deleting').length;
  return count < all ? t('model.on_some', { count, all }) : t('model.on_nodes', { count });
}

const isVerifying = ({ replicas, download_progress: progress }) =>
  progress >= 1 || replicas.some(({ state }) => state === 'verifying');

function downloadNumbers(item) {
  const { download_progress: progress, downloaded_bytes: got, total_bytes: total } = item;
  // The reason of one that waits takes the place of the rest.
  if (item.error) return html`<strong>${f.percent(progress)}</strong>`;
  const amount = got === null ? '' : t('model.of', { downloaded: f.bytes(got), total: f.bytes(total) });
  return html`<strong>${f.percent(progress)}</strong> ${amount}${pace(item)}`;
}

/** Speed and time left. */
function pace(item) {
  if (isVerifying(item)) return ` · ${t('model.verifying')}`;
  const { bytes_per_second: rate } = item;
  return rate ? ` · ${f.rate(rate)}${left(item)}` : '';
}

const left = ({ eta_seconds: seconds }) =>
  seconds === null || seconds === undefined ? '' : ` · ${t('model.left', { time: f.duration(seconds) })}`;

const progressText = (item) =>
  isVerifying(item) ? t('model.verifying') : `${f.percent(item.download_progress)}${left(item)}`;

// --- columns -----------------------------------------------------------------------------------------

const ABILITIES = [
  ['eye', 'vision', (model) => model.capabilities.includes('ImageUnderstanding')],
  ['code', 'code', (model) => model.tags.includes('coding')],
  ['wrench', 'tools', (model) => model.capabilities.includes('ToolUse')],
  [
    'thought',
    'reasoning',
    (model) => model.capabilities.includes('Reasoning') || model.tags.includes('reasoning'),
  ],
  ['vector', 'embedding', (model) => model.capabilities.includes('Embedding')],
  ['order', 'reranking', (model) => model.capabilities.includes('Reranking')],
];

/** Capabilities of a model other than chat, as icons. */
export const abilities = (model) => html`
  <ul class="abilities" aria-label=${t('model.abilities')}>
    ${ABILITIES.filter(([, , has]) => has(model)).map(
      ([iconName, key]) => html`
        <li title=${t(`ability.${key}`)}>
          ${icon(iconName)}<span class="sr-only">${t(`ability.${key}`)}</span>
        </li>`,
    )}
  </ul>`;

/** Required memory, with a bar relative to the largest node. */
function memoryCell({ fit, model }, { largest }) {
  const share = largest ? Math.min(1, model.required_memory_bytes / largest) : null;
  return html`
    <div class="model-memory fit-${fit.verdict}" title=${fitText(fit)}>
      <span class="sr-only">${t(`fit.${fit.verdict}`)}: ${fitText(fit)}</span>
      <span class="only-wide" aria-hidden="true">${f.bytes(model.required_memory_bytes)}</span>
      <span class="only-narrow" aria-hidden="true">${t('hub.needs', {
        size: f.bytes(model.required_memory_bytes),
      })}</span>
      ${share === null ? null : html`<i class="fit-bar" aria-hidden="true"><b --share=${share}></b></i>`}
    </div>`;
}

const popularity = ({ hf_stats: stats }) => html`
  <p class="model-downloads">
    ${
      stats ? html`<span class="sr-only">${t('model.downloads')}: </span>${f.compact(stats.downloads)}` : null
    }
  </p>`;

// --- actions -----------------------------------------------------------------------------------------

const button = (key, { model }, actionState, onClick, { kind = '', iconName = null } = {}) => html`
  <button
    type="button"
    class="button small ${kind}"
    aria-label=${t(`action.${key}_named`, { name: model.name })}
    aria-disabled=${busyAttribute(actionState)}
    @click=${onClick}
  >
    ${iconName ? icon(iconName) : null}${t(`action.${key}`)}
  </button>`;

const tryButton = (app, item) =>
  button(
    isChat(item.model) ? 'try' : 'try_out',
    item,
    { busy: null },
    () => openInPlayground(app, item.model),
    { kind: 'tinted', iconName: 'playground' },
  );

const cancelButton = (actions, item, { actionState, canManage }) =>
  canManage ? button('cancel', item, actionState, () => actions.cancel(item.model.id)) : null;

const actionsByStatus = {
  Available: (app, actions, item, { actionState, canManage, folded }) =>
    canManage
      ? button('pull', item, actionState, () => actions.pull(item.model.id), {
          kind: item.fit.verdict === 'too_large' || folded ? 'quiet' : 'tinted',
          iconName: folded ? null : 'download',
        })
      : null,

  Paused: (app, actions, item, { actionState, canManage }) =>
    canManage
      ? html`
        ${button('resume', item, actionState, () => actions.pull(item.model.id), {
          kind: 'tinted',
          iconName: 'play',
        })}
        ${button('discard', item, actionState, () => actions.discard(item.model.id), { kind: 'quiet' })}`
      : null,

  Registered: (app, actions, item, options) => html`
    ${
      options.canManage && options.next
        ? button('next', item, options.actionState, options.next, { kind: 'quiet' })
        : null
    }
    ${cancelButton(actions, item, options)}`,
  Downloading: (app, actions, item, options) => cancelButton(actions, item, options),

  Ready: (app, actions, item) => (canTry(item.model) ? tryButton(app, item) : null),

  Error: (app, actions, item, { actionState, canManage }) =>
    canManage
      ? html`
        ${button('retry', item, actionState, () => actions.pull(item.model.id), {
          kind: 'primary',
          iconName: 'refresh',
        })}
        ${button('delete', item, actionState, () => actions.discard(item.model.id), { kind: 'quiet' })}`
      : null,
};

export const openInPlayground = (app, model) => app.go(`/playground?model=${encodeURIComponent(model.id)}`);
