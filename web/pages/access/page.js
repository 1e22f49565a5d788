/** Access page: API keys, and for administrators users and the audit log. */

import { html } from '../../lib/html.js';
import { t } from '../../core/i18n.js';
import { skeletons } from '../../components/feedback.js';
import { createAuditLog } from './audit-log.js';
import { createKeySection } from './api-keys.js';
import { createBudgetSection } from './budgets.js';
import { createUserSection } from './users.js';

export const title = () => t('nav.access');

export function open(app) {
  const keys = createKeySection(app, reload);
  const forAdmins = [createBudgetSection(app, reload), createUserSection(app, reload), createAuditLog(app)];
  const sections = () => (app.can('admin') ? [keys, ...forAdmins] : [keys]);

  /**
   * A change affects several lists: deleting a user deletes their keys, and every change appears in the audit
   * log.
   */
  function reload() {
    return Promise.all(sections().map((part) => part.load()));
  }

  reload();
  return {
    view(state) {
      const shown = sections();
      return html`
        <div class="page access">
          <div class="page-head">
            <h1 tabindex="-1">${t('nav.access')}</h1>
            <a href="/docs">${t('docs.title')}</a>
          </div>
          ${
            shown.every((part) => part.isReady())
              ? html`<div class="stack">${shown.map((part) => part.view(state))}</div>`
              : skeletons(shown.length, 'access-card')
          }
        </div>`;
    },
  };
}
