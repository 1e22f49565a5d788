/** First picks of the Model Hub: three models for this cluster, while nothing is pulled. */

import { each, html } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { icon } from '../../components/icons.js';
import { busyAttribute } from './actions.js';
import { modelPath } from '../../core/router.js';

const ICONS = { try: 'bolt', best: 'star', code: 'code' };

/** `picks`: result of `firstPicks`. */
export const picksSection = (actions, picks) => html`
  <section class="first-picks" aria-labelledby="hub-picks">
    <h2 id="hub-picks" class="group-title">${t('hub.picks')}</h2>
    <ul>
      ${each(
        picks,
        ({ item }) => item.model.id,
        (pick) => card(actions, pick),
      )}
    </ul>
  </section>`;

function card(actions, { reason, item }) {
  const { model, fit } = item;
  return html`
    <li class="first-pick" data-model=${model.id}>
      <p class="pick-reason">${icon(ICONS[reason])}${t(`hub.pick.${reason}`)}</p>
      <p class="pick-name"><a href=${modelPath(model.id)}>${model.name}</a></p>
      <p class="pick-facts">
        ${f.bytes(model.size_bytes)} · ${
          fit.available_bytes === null
            ? t('hub.needs', { size: f.bytes(fit.required_bytes) })
            : t('hub.needs_of', {
                size: f.bytes(fit.required_bytes),
                available: f.bytes(fit.available_bytes),
              })
        }
      </p>
      <button
        type="button"
        class="button primary small"
        aria-label=${t('action.pull_named', { name: model.name })}
        aria-disabled=${busyAttribute(actions.of(model.id))}
        @click=${() => actions.pull(model.id)}
      >
        ${icon('download')}${t('action.pull')}
      </button>
    </li>`;
}
