/** What this server is, what is wrong with its host, and the settings it runs with. */

import { html } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { badge } from '../../components/badges.js';
import { note } from '../../components/feedback.js';

export const serverSections = ({ system }) =>
  system ? [about(system), system.settings ? inEffect(system.settings) : null] : html`<div class="skeleton settings-wait" aria-hidden="true"></div>`;

function about(system) {
  const facts = [
    ['name', system.name],
    ['version', system.version],
    ['started', f.dateTime(system.started_at)],
    ['platform', system.platform],
    ['python', system.python],
    ['nodes', f.number(system.nodes_online)],
    ['home', system.home],
    ['models_dir', system.models_dir],
  ];
  return html`
    <section class="card settings-card" aria-labelledby="server">
      <h2 id="server">${t('settings.server')}</h2>
      ${system.problems.map((problem) => note(problem))}
      <dl class="facts wide-facts">
        ${facts.filter(([, value]) => value).map(([name, value]) => html`<div><dt>${t(`settings.server.${name}`)}</dt><dd>${value}</dd></div>`)}
      </dl>
    </section>`;
}

const inEffect = (settings) => html`
  <section class="card settings-card" aria-labelledby="in-effect">
    <div><h2 id="in-effect">${t('settings.in_effect')}</h2><p class="soft">${t('settings.in_effect.text')}</p></div>
    <div class="table-place" tabindex="0" role="region" aria-label=${t('settings.in_effect.table')}>
      <table class="table">
        <thead>
          <tr>${['name', 'value', 'flag', 'environment'].map((name) => html`<th scope="col">${t(`settings.column.${name}`)}</th>`)}</tr>
        </thead>
        <tbody>${settings.map(row)}</tbody>
      </table>
    </div>
  </section>`;

const row = ({ name, value, flag, environment, is_default: isDefault }) => html`
  <tr>
    <th scope="row"><code>${name}</code></th>
    <td>${value === null || value === '' ? html`<span class="soft">${t('settings.found_out')}</span>` : value} ${isDefault ? null : badge('active', t('settings.changed'))}</td>
    <td class="nowrap">${flag ? html`<code>${flag}</code>` : '–'}</td>
    <td><code>${environment}</code></td>
  </tr>`;
