/** Playground without a conversation: suggestions, and notes for a model that is missing or not ready. */

import { html } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { emptyState, note } from '../../components/feedback.js';
import { progressBar } from '../../components/progress.js';

const IDEAS = ['explain', 'write', 'code'];

/** `choose(text)`: puts a suggestion into the composer. */
export const chatIntro = ({ model }, chooseModel) => html`
  <div class="log-empty">
    <h2>${t('playground.begin', { name: model.name })}</h2>
    <p>${t('playground.begin.text')}</p>
    <div class="ideas">
      ${IDEAS.map((name) => {
        const text = t(`playground.idea.${name}`);
        return html`<button type="button" class="idea" @click=${() => chooseModel(text)}>${text}</button>`;
      })}
    </div>
  </div>`;

export const noModelPage = () => html`
  <div class="page">
    <div class="page-head"><h1 tabindex="-1">${t('nav.playground')}</h1></div>
    ${emptyState(
      'playground',
      t('playground.empty.title'),
      t('playground.empty.text'),
      html`<a class="button primary" href="/models">${t('playground.empty.action')}</a>`,
    )}
  </div>`;

/** Note above the conversation while the model is unavailable. */
export function modelNotice(model) {
  if (!model)
    return note(
      t('playground.no_model'),
      html`<a class="button small" href="/models">${t('playground.empty.action')}</a>`,
    );
  if (model.status === 'Ready') return null;
  if (model.status !== 'Downloading')
    return note(t('playground.not_ready', { name: model.model.name, status: t(`status.${model.status}`) }));
  const share = model.download_progress ?? 0;
  return html`
    <div class="note download-note">
      <p>${t('playground.coming', { name: model.model.name, percent: f.percent(share) })}</p>
      ${progressBar(t('model.progress', { name: model.model.name }), share)}
    </div>`;
}
