/** Tools of the downloads: their order, pausing all of them, and the rate limit of each node. */

import { html } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { errorMessage } from '../../components/feedback.js';

// In bytes per second.
const RATE_LIMITS = [500e3, 1e6, 2e6, 5e6, 10e6, 20e6, 50e6, 100e6];

export function createDownloads(app, actions) {
  // Answer of /api/downloads, null before it.
  let settings = null;

  async function change(body) {
    try {
      settings = await app.api.patch('/api/downloads', body);
    } catch (error) {
      app.showToast({ kind: 'error', text: errorMessage(error) });
    }
    app.requestRender();
  }

  async function load() {
    try {
      settings = await app.api.get('/api/downloads');
      app.requestRender();
    } catch {
      // The downloads themselves come with the models.
    }
  }

  load();

  const rankOf = ({ model }) => {
    const at = settings?.downloads.findIndex(({ model_id: id }) => id === model.id) ?? -1;
    return at < 0 ? Infinity : at;
  };

  const running = (state) =>
    [...state.models.values()].filter(({ status }) => status === 'Downloading' || status === 'Registered');

  const rateSelect = () => {
    const limit = settings.rate_limit;
    const limits = RATE_LIMITS.includes(limit) || limit === null ? RATE_LIMITS : [limit, ...RATE_LIMITS];
    return html`
      <label class="rate-limit">
        <span>${t('downloads.rate_limit')}</span>
        <select
          class="control"
          @change=${(event) => change({ rate_limit: Number(event.target.value) || null })}
        >
          <option value="0" .selected=${limit === null}>${t('downloads.unlimited')}</option>
          ${limits.map(
            (value) => html`
              <option value=${value} .selected=${value === limit}>${f.rate(value)}</option>`,
          )}
        </select>
      </label>`;
  };

  return {
    /** Sorted as they are downloaded: running ones, then the queue in its order, then the others. */
    sorted(items) {
      const stages = ['Downloading', 'Registered', 'Available', 'Error'];
      return [...items].sort(
        (a, b) =>
          stages.indexOf(a.status) - stages.indexOf(b.status) ||
          (a.status === 'Registered' ? (rankOf(a) > rankOf(b) ? 1 : rankOf(a) < rankOf(b) ? -1 : 0) : 0),
      );
    },
    /** Item → action that makes a queued download the next one; null where it is already, or alone. */
    nextActions(state) {
      const queued = this.sorted(running(state).filter(({ status }) => status === 'Registered'));
      return (item) => {
        if (item.status !== 'Registered' || queued.length < 2 || queued[0] === item) return null;
        const others = queued.filter((each) => each !== item).map(({ model }) => model.id);
        return () => change({ order: [item.model.id, ...others] });
      };
    },
    /** For the head of the group. */
    tools(state) {
      const found = running(state);
      // One that waits says why, and has no speed.
      const rate = found.reduce((sum, each) => sum + (each.error ? 0 : (each.bytes_per_second ?? 0)), 0);
      return html`
        <div class="download-tools">
          ${rate ? html`<span class="download-rate">${f.rate(rate)}</span>` : null}
          ${app.can('models:write') && settings ? rateSelect() : null}
          ${
            app.can('models:write') && found.length > 1
              ? html`<button
                    type="button"
                    class="button quiet small"
                    @click=${() => found.forEach(({ model }) => actions.cancel(model.id))}
                  >${t('downloads.pause_all')}</button>`
              : null
          }
        </div>`;
    },
  };
}
