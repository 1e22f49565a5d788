/** Server information: problems of the machine, and its configuration. */

import { html } from '../../lib/html.js';
import { f, hasText, problemsOf, t } from '../../core/i18n.js';
import { badge } from '../../components/badges.js';
import { alertBox, errorMessage, note, skeletons } from '../../components/feedback.js';
import { formDialog } from '../../components/forms/dialog.js';
import { field } from '../../components/forms/field.js';
import { dataTable } from '../../components/data-table.js';

/** Settings that are on or off. */
const SWITCHES = new Set(['history_text']);

export function createServerSection(app) {
  let error = null;

  async function store(values) {
    const { settings } = await app.api.patch('/api/settings', { values });
    app.store.dispatch({ type: 'system', system: { ...app.store.state.system, settings } });
  }

  const edit = ({ name, value: text, is_secret: isSecret }) =>
    formDialog({
      title: t('settings.edit.title', { name }),
      action: t('settings.edit.action'),
      fields: () => html`
        <p>${t('settings.edit.text')}</p>
        ${
          SWITCHES.has(name)
            ? html`
              <label class="field">
                <span>${t('settings.column.value')}</span>
                <select name="value" autofocus>
                  ${['on', 'off'].map(
                    (each) =>
                      html`<option value=${each} .selected=${each === text}>${each}</option>`,
                  )}
                </select>
                <small>${t(`settings.edit.${name}`)}</small>
              </label>`
            : field({
                name: 'value',
                label: t('settings.column.value'),
                hint: t(`settings.edit.hint.${name}`),
                ...(isSecret
                  ? { type: 'password', autocomplete: 'off' }
                  : { value: text ?? '' }),
                autofocus: true,
              })
        }`,
      perform: (form) => store({ [name]: form.get('value').trim() }),
    });

  async function reset({ name }) {
    try {
      await store({ [name]: null });
    } catch (failure) {
      app.showToast({ kind: 'error', text: errorMessage(failure) });
    }
  }

  /** The data may be stale: the server detects problems of its machine during startup. */
  async function ask() {
    try {
      app.store.dispatch({ type: 'system', system: await app.api.get('/api/system') });
    } catch (failure) {
      error = failure;
      app.requestRender();
    }
  }

  ask();
  return {
    view({ system, nodes }) {
      if (!system) return error ? alertBox(errorMessage(error)) : skeletons(2, 'settings-card');
      return html`
        ${about(system, nodes)}
        ${system.settings ? configuration(system.settings, nodes, { edit, reset }) : null}`;
    },
  };
}

function about(system, nodes) {
  const online = [...(nodes?.values() ?? [])].filter(({ status }) => status === 'online').length;
  const facts = [
    ['name', system.name],
    ['version', `llb ${system.version}`],
    ['uptime', f.duration(Math.max(0, Date.now() / 1000 - system.started_at)), f.dateTime(system.started_at)],
    ['nodes', t('settings.server.online', { online: f.number(online), count: nodes?.size ?? 0 })],
    ['platform', system.platform],
    ['python', system.python],
    ['home', system.home],
    ['models_dir', system.models_dir],
  ];
  return html`
    <section class="card settings-card" aria-labelledby="server">
      <h2 id="server">${t('settings.server')}</h2>
      ${problemsOf(system).map((problem) => note(problem))}
      <dl class="settings-facts">
        ${facts
          .filter(([, value]) => value)
          .map(
            ([name, value, more]) => html`
            <div>
              <dt>${t(`settings.server.${name}`)}</dt>
              <dd>${value} ${
                more ? html`<small>${t(`settings.server.${name}.since`, { time: more })}</small>` : null
              }</dd>
            </div>`,
          )}
      </dl>
    </section>`;
}

const configuration = (settings, nodes, acts) => html`
  <section class="card settings-card" aria-labelledby="in-effect">
    <div>
      <h2 id="in-effect">${t('settings.in_effect')}</h2>
      <p class="soft">${t('settings.in_effect.text')}</p>
    </div>
    ${dataTable({
      labelledBy: 'in-effect',
      columns: columns(nodes, acts),
      rows: settings,
      key: ({ name }) => name,
    })}
  </section>`;

const columns = (nodes, acts) => [
  { title: t('settings.column.name'), cell: ({ name }) => html`<code>${name}</code>` },
  { title: t('settings.column.value'), cell: (setting) => value(setting, nodes) },
  {
    title: t('settings.column.flag'),
    kind: 'nowrap',
    cell: ({ flag }) => (flag ? html`<code>${flag}</code>` : '–'),
  },
  { title: t('settings.column.environment'), cell: ({ environment }) => html`<code>${environment}</code>` },
  {
    title: t('settings.column.actions'),
    kind: 'actions',
    cell: (setting) => actions(setting, acts),
  },
];

const actions = (setting, { edit, reset }) =>
  setting.is_editable
    ? html`
      ${
        setting.is_stored
          ? html`<button
                type="button"
                class="button quiet small"
                aria-label=${t('settings.reset_named', { name: setting.name })}
                @click=${() => reset(setting)}
              >${t('settings.reset')}</button>`
          : null
      }
      <button
        type="button"
        class="button quiet small"
        aria-label=${t('settings.edit_named', { name: setting.name })}
        @click=${() => edit(setting)}
      >
        ${t('settings.edit')}
      </button>`
    : null;

const value = ({ name, value: text, is_default: isDefault, is_stored: isStored }, nodes) => html`
  ${
    text
      ? html`<span>${wordOf(text)}</span>`
      : html`<span class="soft">${automaticValue(name, nodes)}</span>`
  }
  ${isDefault && !isStored ? null : badge('active', t(isStored ? 'settings.stored' : 'settings.changed'))}`;

/** Value as it is, or its word in the current language. */
function wordOf(text) {
  const key = `settings.value.${text.replaceAll(' ', '_')}`;
  return hasText(key) ? t(key) : text;
}

/** The value that llb uses for a setting that is not set. */
function automaticValue(name, nodes) {
  const budget = [...(nodes?.values() ?? [])].find(isLocal)?.memory_budget_bytes;
  if (name === 'memory_limit' && budget) return t('settings.auto.memory_limit', { size: f.bytes(budget) });
  const key = `settings.auto.${name}`;
  return name !== 'memory_limit' && hasText(key) ? t(key) : t('settings.not_set');
}

const isLocal = ({ reach }) => reach?.way === 'local';
