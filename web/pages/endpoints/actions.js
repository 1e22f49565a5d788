/** Actions on endpoints, for administrators. Remembers per endpoint what runs and why it failed. */

import { html } from '../../lib/html.js';
import { t } from '../../core/i18n.js';
import { askForBudgets, subjectOf } from '../../components/forms/budgets.js';
import { confirmDialog } from '../../components/forms/dialog.js';
import { alertBox, errorMessage } from '../../components/feedback.js';
import { editEndpoint } from './edit-endpoint.js';
import { mapModel } from './map-model.js';

export function createEndpointActions(app, reload, spend) {
  // Endpoint id → {busy, error}.
  const states = new Map();
  const path = ({ id }) => `/api/endpoints/${encodeURIComponent(id)}`;

  async function run(endpoint, work) {
    if (states.get(endpoint.id)?.busy) return;
    const set = (value) => {
      states.set(endpoint.id, value);
      app.requestRender();
    };
    set({ busy: true, error: null });
    try {
      await work();
      await reload();
      set({ busy: false, error: null });
    } catch (error) {
      set({ busy: false, error });
    }
  }

  const change = (endpoint, patch) => run(endpoint, () => app.api.patch(path(endpoint), patch));

  const button = (text, work, busy, extra = '') => html`
    <button
      type="button"
      class="button quiet small ${extra}"
      aria-disabled=${busy ? 'true' : null}
      @click=${work}
    >
      ${text}
    </button>`;

  async function remove(endpoint) {
    const removed = await confirmDialog({
      title: t('endpoints.remove.title', { name: endpoint.name }),
      body: t('endpoints.remove.text'),
      action: t('endpoints.remove'),
      perform: () => app.api.remove(path(endpoint)),
    });
    if (removed) await reload();
  }

  async function changeBudget({ id, name }) {
    const option = { subject: subjectOf({ scope: 'provider', id }), name };
    const subjects = [{ group: '', options: [option] }];
    if (await askForBudgets(app, { subjects, budgets: spend.budgets() })) await spend.load();
  }

  return {
    view(endpoint) {
      const { busy = false, error = null } = states.get(endpoint.id) ?? {};
      return html`
        <div class="node-actions">
          ${button(t('endpoints.edit'), async () => {
            if (await editEndpoint(app, endpoint, path(endpoint))) await reload();
          })}
          ${button(
            t('endpoints.check'),
            () => run(endpoint, () => app.api.post(`${path(endpoint)}/check`)),
            busy,
          )}
          ${button(
            t(endpoint.enabled ? 'endpoints.disable' : 'endpoints.enable'),
            () => change(endpoint, { enabled: !endpoint.enabled }),
            busy,
          )}
          ${button(t('endpoints.budget'), () => changeBudget(endpoint))}
          ${button(t('endpoints.remove'), () => remove(endpoint), busy, 'separate')}
        </div>
        ${error ? alertBox(errorMessage(error)) : null}`;
    },

    /** Which model of the catalogue a model of the endpoint is: the suggested one, another, or none. */
    mapping(endpoint, { id, served_as: servedAs, mapped_to: mapped, suggestion }, models) {
      const { busy = false } = states.get(endpoint.id) ?? {};
      const toPatch = (target) => ({ mapped: { [id]: target } });
      if (mapped) return button(t('endpoints.unmap'), () => change(endpoint, toPatch(null)), busy);
      const choose = async () => {
        const save = (target) => app.api.patch(path(endpoint), toPatch(target));
        if (await mapModel({ endpoint, servedAs, models, suggestion, save })) await reload();
      };
      return html`
        <div class="endpoint-mapping">
          ${suggestion ? button(t('endpoints.map'), () => change(endpoint, toPatch(suggestion)), busy) : null}
          ${models.size ? button(t('endpoints.map.choose'), choose) : null}
        </div>`;
    },
  };
}
