/** Models on a node's disk, and downloads that failed. */

import { html } from '../../lib/html.js';
import { errorTextOf, f, t } from '../../core/i18n.js';
import { alertBox } from '../../components/feedback.js';

const STORED_STATES = new Set(['ready', 'deleting']);

export function diskModels({ models }, { replicas }) {
  const stored = replicas.filter(({ state }) => STORED_STATES.has(state));
  const failed = replicas.filter(({ state }) => state === 'error');
  if (!stored.length && !failed.length) return null;
  const nameOf = ({ model_id: id }) => models?.get(id)?.model.name ?? id;
  return html`
    <div class="node-part">
      <h3>${t('node.models')}</h3>
      ${
        stored.length
          ? html`
            <ul class="chips" aria-label=${t('node.models')}>
              ${stored.map(
                (replica) => html`
                  <li class="chip">
                    ${nameOf(replica)} <span>${
                      replica.state === 'deleting' ? t('local.deleting') : f.bytes(replica.total_bytes)
                    }</span>
                  </li>`,
              )}
            </ul>`
          : null
      }
      ${failed.map((replica) =>
        alertBox(
          t('node.models.failed', {
            name: nameOf(replica),
            error: errorTextOf(replica) ?? t('model.failed'),
          }),
        ),
      )}
    </div>`;
}
