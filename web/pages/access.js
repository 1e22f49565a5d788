/** Access: API keys for programs, and for administrators the people and what was done. */

import { html } from '../lib/html.js';
import { t } from '../core/i18n.js';
import { openAudit } from './access/audit.js';
import { openKeys } from './access/keys.js';
import { openUsers } from './access/users.js';

export const title = () => t('nav.access');

export function open(app) {
  const parts = [openKeys(app), ...(app.can('admin') ? [openUsers(app), openAudit(app)] : [])];
  for (const part of parts) part.load();
  return {
    view: (state) => html`
      <div class="page access">
        <div class="page-head"><h1 tabindex="-1">${t('nav.access')}</h1></div>
        <div class="stack">${parts.map((part) => part.view(state))}</div>
      </div>`,
  };
}
