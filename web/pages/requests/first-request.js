/** Instructions for the first request, shown until there is one. */

import { html } from '../../lib/html.js';
import { serverUrl } from '../../lib/base-path.js';
import { t } from '../../core/i18n.js';
import { buildUrl } from '../../core/router.js';
import { copyButton } from '../../components/copy-button.js';
import { emptyState } from '../../components/feedback.js';

export function firstRequest({ models }) {
  const found = [...models.values()].find(canTalk);
  if (!found) {
    return emptyState(
      'requests',
      t('requests.none.title'),
      t('requests.none.text'),
      html`<a class="button primary" href="/models">${t('local.empty.action')}</a>`,
    );
  }
  const { id } = found.model;
  const command = curl(id);
  return html`
    <section class="card first-request" aria-labelledby="first-request">
      <h2 id="first-request">${t('requests.first.title')}</h2>
      <p class="soft">${t('requests.first.text')}</p>
      <div class="first-command">
        <pre
          tabindex="0"
          role="region"
          aria-label=${t('requests.first.command')}
        ><code>${command}</code></pre>
        ${copyButton(command)}
      </div>
      <div class="buttons">
        <a class="button" href="/access">${t('requests.first.key')}</a>
        <a class="button" href=${buildUrl('/playground', { model: id })}>${t('requests.first.try')}</a>
      </div>
    </section>`;
}

const canTalk = ({ status, model }) => status === 'Ready' && model.capabilities.includes('TextGeneration');

function curl(id) {
  const body = { model: id, messages: [{ role: 'user', content: t('requests.first.question') }] };
  return [
    `curl ${serverUrl()}/v1/chat/completions \\`,
    "  -H 'Authorization: Bearer sk-…' \\",
    "  -H 'Content-Type: application/json' \\",
    `  -d '${JSON.stringify(body).replaceAll("'", "'\\''")}'`,
  ].join('\n');
}
