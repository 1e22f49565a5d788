/** Playground without a conversation: suggestions, and what to do about a model that is missing. */

import { html } from '../../lib/html.js';
import { descriptionOf, errorTextOf, f, t } from '../../core/i18n.js';
import { modelPath } from '../../core/router.js';
import { alertBox, emptyState, errorMessage, note } from '../../components/feedback.js';
import { progressBar } from '../../components/progress.js';
import { isChatModel } from './model-choice.js';

const IDEAS = ['explain', 'write', 'code'];

/** `choose(text)`: puts a suggestion into the composer. */
export const chatIntro = ({ model, source }, chooseModel) => html`
  <div class="log-empty">
    <h2>${t('playground.begin', { name: model.name })}</h2>
    <p>${whereText(source)}</p>
    <div class="ideas">
      ${IDEAS.map((name) => {
        const text = t(`playground.idea.${name}`);
        return html`<button type="button" class="idea" @click=${() => chooseModel(text)}>${text}</button>`;
      })}
    </div>
  </div>`;

/**
 * Page without a chat model. An administrator can pull one here: the smallest, or the largest that fits.
 * `pulling`: {error} of the last attempt.
 */
export function noModelPage(app, state, pulling) {
  const coming = [...state.models.values()].filter(
    (item) => isChatModel(item) && ['Downloading', 'Registered'].includes(item.status),
  );
  const picks = app.can('models:write') && !coming.length ? picksOf(state) : [];
  const pull = async (item) => {
    pulling.error = null;
    try {
      await app.api.post('/api/models/register', { model_id: item.model.id });
    } catch (error) {
      pulling.error = errorMessage(error);
    }
    app.requestRender();
  };
  return html`
    <div class="page">
      <div class="page-head"><h1 tabindex="-1">${t('nav.playground')}</h1></div>
      ${emptyState(
        'playground',
        t('playground.empty.title'),
        t(
          coming.length
            ? 'playground.empty.coming'
            : picks.length
              ? 'playground.empty.text'
              : 'playground.empty.ask_admin',
        ),
        html`
          ${alertBox(pulling.error)}
          <div class="first-models">
            ${coming.map((item) => comingView(item))} ${picks.map((pick) => pickView(pick, pull))}
          </div>
          <a class="button ${picks.length ? 'quiet' : 'primary'}" href="/models">
            ${t('playground.empty.action')}
          </a>
        `,
      )}
    </div>`;
}

/** Where messages go: an engine elsewhere may keep them, and a cloud is not one's own. */
function whereText(source) {
  if (!source) return t('playground.begin.text');
  return t(source.cloud ? 'playground.begin.cloud' : 'playground.begin.endpoint', { name: source.name });
}

/** The smallest chat model, and the largest that fits well: [{key, item}]. */
export function picksOf({ models }) {
  const fitting = [...models.values()]
    .filter((item) => isChatModel(item) && item.status === 'Available' && item.fit?.verdict === 'fits')
    .sort((a, b) => a.model.size_bytes - b.model.size_bytes);
  const [smallest, best] = [fitting[0], fitting.at(-1)];
  return [
    ...(smallest ? [{ key: 'small', item: smallest }] : []),
    ...(best && best !== smallest ? [{ key: 'best', item: best }] : []),
  ];
}

const pickView = ({ key, item }, pull) => html`
  <div class="first-model">
    <p class="soft">${t(`playground.pick.${key}`)}</p>
    <p class="first-model-name">${item.model.name}</p>
    <p class="soft">${descriptionOf(item.model)}</p>
    <button type="button" class="button ${key === 'small' ? 'primary' : ''}" @click=${() => pull(item)}>
      ${t('playground.pick.pull', { size: f.bytes(item.model.size_bytes) })}
    </button>
  </div>`;

const comingView = (item) => html`
  <div class="first-model">
    <p class="first-model-name">${item.model.name}</p>
    ${progressBar(t('model.progress', { name: item.model.name }), item.download_progress ?? null)}
    <p class="soft">${f.percent(item.download_progress ?? 0)}</p>
  </div>`;

/** Note above the conversation while the model is unavailable. */
export function modelNotice(model) {
  if (!model)
    return note(
      t('playground.no_model'),
      html`<a class="button small" href="/models">${t('playground.empty.action')}</a>`,
    );
  if (model.status === 'Ready') return null;
  if (model.status === 'Error')
    return note(
      t('playground.model_failed', {
        name: model.model.name,
        error: errorTextOf(model) ?? t('model.failed'),
      }),
      html`<a class="button small" href=${modelPath(model.model.id)}>${t('playground.to_model')}</a>`,
      'warning',
    );
  if (model.status !== 'Downloading')
    return note(t('playground.not_ready', { name: model.model.name, status: t(`status.${model.status}`) }));
  const share = model.download_progress ?? 0;
  return html`
    <div class="note download-note">
      <p>${t('playground.coming', { name: model.model.name, percent: f.percent(share) })}</p>
      ${progressBar(t('model.progress', { name: model.model.name }), share)}
    </div>`;
}
