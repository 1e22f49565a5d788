/** One model of the hub: what it is, whether it fits, and the one thing to do next. */

import { html } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { fitBadge, statusBadge } from '../../components/badges.js';
import { progressBar } from '../../components/bars.js';
import { alertBox, explain } from '../../components/feedback.js';
import { icon } from '../../components/icons.js';

/** `doing`: what `actions.of` says; `shown`: whether the filters let it pass; `can`: whether this person may change models. */
export function modelCard(app, actions, item, { doing, shown, can }) {
  const { model, hf_stats: stats } = item;
  const heading = `model-${model.id}`;
  return html`
    <article class="card model" aria-labelledby=${heading} tabindex="-1" data-model=${model.id} ?hidden=${!shown}>
      <div class="model-head">
        <div>
          <h2 id=${heading}>${model.name}</h2>
          <p class="model-repo">${model.repo}</p>
        </div>
        ${statusBadge(item.status)}
      </div>
      ${model.description ? html`<p class="description">${model.description}</p>` : null}
      <dl class="facts">
        ${fact(t('model.size'), f.bytes(model.size_bytes))} ${fact(t('model.memory'), f.bytes(model.required_memory_bytes))}
        ${fact(t('model.parameters'), model.parameter_count)} ${fact(t('model.quantization'), model.quantization)}
        ${fact(t('model.context'), model.context_length && t('model.tokens', { count: f.tokens(model.context_length) }))}
      </dl>
      <ul class="chips" aria-label=${t('model.about')}>
        ${model.capabilities.map((name) => html`<li class="chip">${t(`capability.${name}`)}</li>`)}
        ${model.tags.map((tag) => html`<li class="chip">${tag}</li>`)}
      </ul>
      <div class="model-foot">
        <div class="model-act">${fitBadge(item.fit)} ${stats ? popularity(stats) : null}</div>
        ${item.supported ? null : html`<p class="note">${t('model.unsupported')}</p>`}
        ${nextStep[item.status](app, actions, item, doing, can)}
        ${doing.error ? alertBox(explain(doing.error)) : null}
      </div>
    </article>`;
}

const fact = (name, value) => (value ? html`<div><dt>${name}</dt><dd>${value}</dd></div>` : null);

const popularity = ({ downloads, stars }) => html`
  <p class="popularity">
    <span title=${t('model.downloads')}>${icon('download')}<span class="sr-only">${t('model.downloads')}: </span>${f.compact(downloads)}</span>
    <span title=${t('model.stars')}>${icon('star')}<span class="sr-only">${t('model.stars')}: </span>${f.compact(stars)}</span>
  </p>`;

/** The table of the quick start: what a person can do in each status. */
const nextStep = {
  Available: (app, actions, { model, fit }, doing, can) => html`
    <div class="model-act">
      ${can
        ? html`
            <button
              type="button"
              class="button wide ${fit.verdict === 'too_large' ? '' : 'primary'}"
              ?disabled=${doing.busy}
              @click=${() => actions.pull(model.id)}
            >
              ${icon('download')}${t('action.pull')}
            </button>`
        : html`<p class="soft">${t('model.ask_admin')}</p>`}
    </div>`,

  Registered: (app, actions, item, doing, can) => html`
    <div class="stack-small">
      <p class="soft">${item.error ?? t('model.waiting')}</p>
      <div class="model-act">${cancelButton(actions, item, doing, can)}</div>
    </div>`,

  Downloading: (app, actions, item, doing, can) => html`
    <div class="stack-small">
      ${progressBar(t('model.progress', { name: item.model.name }), item.download_progress ?? 0, progressText(item))}
      ${pullNumbers(item)} ${item.error ? html`<p class="soft">${item.error}</p>` : null}
      <div class="model-act">${cancelButton(actions, item, doing, can)}</div>
    </div>`,

  Ready: (app, actions, { model, available_nodes: nodes }) => html`
    <div class="model-act">
      <span class="badge good">${icon('check')}${t('model.on_nodes', { count: nodes })}</span>
      ${isChat(model)
        ? html`<button type="button" class="button primary" @click=${() => tryIt(app, model)}>
            ${icon('playground')}${t('action.try')}
          </button>`
        : null}
    </div>`,

  Error: (app, actions, { model, error }, doing, can) => html`
    <div class="stack-small">
      ${alertBox(error ?? t('model.failed'))}
      ${can
        ? html`
            <div class="model-act">
              ${cancelButton(actions, { model }, doing, can)}
              <button type="button" class="button primary" ?disabled=${doing.busy} @click=${() => actions.pull(model.id)}>
                ${icon('refresh')}${t('action.retry')}
              </button>
            </div>`
        : null}
    </div>`,
};

const cancelButton = (actions, { model }, doing, can) =>
  can
    ? html`<button type="button" class="button" ?disabled=${doing.busy} @click=${() => actions.cancel(model.id)}>
        ${t('action.cancel')}
      </button>`
    : null;

/** Whether the Playground can talk to it. */
export const isChat = (model) => model.capabilities.includes('TextGeneration');

export const tryIt = (app, model) => app.go(`/playground?model=${encodeURIComponent(model.id)}`);

const isVerifying = ({ replicas, download_progress: progress }) =>
  progress >= 1 || replicas.some(({ state }) => state === 'verifying');

function pullNumbers(item) {
  const { download_progress: progress, downloaded_bytes: got, total_bytes: total, bytes_per_second: speed } = item;
  if (isVerifying(item)) return html`<p class="pull-numbers"><strong>${f.percent(progress)}</strong><span>${t('model.verifying')}</span></p>`;
  return html`
    <p class="pull-numbers">
      <span><strong>${f.percent(progress)}</strong> ${got === null ? '' : t('model.of', { got: f.bytes(got), total: f.bytes(total) })}</span>
      <span>${speed ? `${f.rate(speed)}${left(item)}` : ''}</span>
    </p>`;
}

const left = ({ eta_seconds: seconds }) =>
  seconds === null || seconds === undefined ? '' : ` · ${t('model.left', { time: f.duration(seconds) })}`;

const progressText = (item) =>
  isVerifying(item) ? t('model.verifying') : `${f.percent(item.download_progress)}${left(item)}`;
