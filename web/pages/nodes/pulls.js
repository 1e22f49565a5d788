/** The downloads of one node, each with its bar. */

import { each, html } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { progressBar } from '../../components/bars.js';

/** `downloads`: what `downloadsOf` says. */
export const pulls = (state, downloads) =>
  downloads.length
    ? html`
        <div class="node-part">
          <h3>${t('node.downloads')}</h3>
          <ul class="rows" aria-label=${t('node.downloads')}>
            ${each(downloads, ({ id }) => id, (download) => row(state, download))}
          </ul>
        </div>`
    : null;

function row({ models }, { id, state, got, total, rate, left, error }) {
  const name = models?.get(id)?.model.name ?? id;
  const share = total ? got / total : 0;
  return html`
    <li class="pull">
      <p class="pull-head"><span>${name}</span><span class="soft">${state === 'verifying' ? t('model.verifying') : speed(rate, left)}</span></p>
      ${progressBar(t('model.progress', { name }), share, f.percent(share))}
      <p class="pull-foot">
        <span><strong>${f.percent(share)}</strong> ${total ? t('model.of', { got: f.bytes(got), total: f.bytes(total) }) : ''}</span>
      </p>
      ${error ? html`<p class="soft">${error}</p>` : null}
    </li>`;
}

const speed = (rate, left) =>
  [rate ? f.rate(rate) : null, left === null ? null : t('model.left', { time: f.duration(left) })].filter(Boolean).join(' · ');
