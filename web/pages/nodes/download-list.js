/** Active downloads of a node with their progress. */

import { each, html } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { progressBar } from '../../components/progress.js';

/** `downloads`: result of `activeDownloads`. */
export const downloadList = (state, downloads) =>
  downloads.length
    ? html`
        <div class="node-part">
          <h3>${t('node.downloads')}</h3>
          <ul class="rows" aria-label=${t('node.downloads')}>
            ${each(
              downloads,
              ({ id }) => id,
              (download) => row(state, download),
            )}
          </ul>
        </div>`
    : null;

function row({ models }, { id, state, downloaded, total, rate, secondsLeft, error }) {
  const name = models?.get(id)?.model.name ?? id;
  const share = total ? downloaded / total : 0;
  return html`
    <li class="download">
      <p class="download-line">
        <strong>${name}</strong><span>${stage(state) ?? speed(rate, secondsLeft)}</span>
      </p>
      ${progressBar(t('model.progress', { name }), share, f.percent(share))}
      <p class="download-line">
        <span><b>${f.percent(share)}</b> ${
          total ? t('model.of', { downloaded: f.bytes(downloaded), total: f.bytes(total) }) : ''
        }</span>
        <span>${error ?? ''}</span>
      </p>
    </li>`;
}

const stage = (state) => ({ wanted: t('model.waiting'), verifying: t('model.verifying') })[state];

function speed(rate, secondsLeft) {
  const parts = [
    rate ? f.rate(rate) : '',
    secondsLeft === null ? '' : t('model.left', { time: f.duration(secondsLeft) }),
  ];
  return parts.filter(Boolean).join(' · ');
}
