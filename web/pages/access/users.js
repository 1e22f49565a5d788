/** Users. Administrators only. */

import { html } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { badge } from '../../components/badges.js';
import { choices } from '../../components/forms/choices.js';
import { confirmDialog, formDialog } from '../../components/forms/dialog.js';
import { errorMessage, note } from '../../components/feedback.js';
import { field, newPasswordField } from '../../components/forms/field.js';
import { icon } from '../../components/icons.js';
import { dataTable } from '../../components/data-table.js';
import { createRemoteList } from './remote-list.js';

const ROLES = ['user', 'admin'];
// In characters; same limit as the server.
const NAME_MAX_LENGTH = 64;

/** `changed()` is called after each change. */
export function createUserSection(app, changed) {
  const list = createRemoteList(app, async () => (await app.api.get('/api/users')).users);
  const path = ({ id }) => `/api/users/${encodeURIComponent(id)}`;
  const isMe = ({ id }) => id === app.store.state.me?.user?.id;

  async function add() {
    const done = await formDialog({
      title: t('users.new.title'),
      action: t('users.new.action'),
      initialState: { role: 'user' },
      fields: (dialog) => html`
        ${field({
          name: 'username',
          label: t('login.username'),
          maxLength: NAME_MAX_LENGTH,
          autofocus: true,
        })}
        ${newPasswordField({ name: 'password', label: t('login.password') })} ${roleChoices(dialog)}`,
      perform: (form) =>
        app.api.post('/api/users', {
          username: form.get('username').trim(),
          password: form.get('password'),
          role: form.get('role'),
        }),
      toMessage: (error) => (error.code === 'conflict' ? t('users.taken') : errorMessage(error)),
    });
    if (done) changed();
  }

  async function changeRole(user) {
    const done = await formDialog({
      title: t('users.role.title', { name: user.username }),
      action: t('users.role.action'),
      initialState: { role: user.role },
      fields: roleChoices,
      perform: (form) => app.api.patch(path(user), { role: form.get('role') }),
      toMessage: lastAdminMessage,
    });
    if (!done) return;
    // The change may have removed the permission to see this list.
    if (isMe(user)) await app.refreshMe();
    changed();
  }

  async function changePassword(user) {
    const done = await formDialog({
      title: t('users.password.title', { name: user.username }),
      action: t('users.password.action'),
      fields: () => html`
        <p class="soft">${t('users.password.text')}</p>
        ${newPasswordField({ name: 'password', label: t('password.new'), autofocus: true })}`,
      perform: (form) => app.api.patch(path(user), { password: form.get('password') }),
    });
    if (done) changed();
  }

  async function remove(user) {
    const done = await confirmDialog({
      title: t('users.delete.title', { name: user.username }),
      body: t(isMe(user) ? 'users.delete.me' : 'users.delete.text'),
      action: t('action.delete'),
      perform: () => app.api.remove(path(user)),
      toMessage: lastAdminMessage,
    });
    if (!done) return;
    // The button disappears with its row.
    document.getElementById('users')?.focus();
    changed();
  }

  const columns = () => [
    {
      title: t('login.username'),
      cell: (user) => html`<span>${user.username}</span> ${isMe(user) ? badge('', t('users.you')) : null}`,
    },
    { title: t('users.role'), kind: 'nowrap', cell: ({ role }) => t(`role.${role}`) },
    {
      title: t('users.since'),
      kind: 'nowrap',
      cell: ({ created_at: at }) => html`<time datetime=${at}>${f.dateTime(at)}</time>`,
    },
    { title: t('access.actions'), kind: 'actions', cell: actions },
  ];

  const perform = (text, work) =>
    html`<button type="button" class="button quiet small" @click=${work}>${text}</button>`;

  const actions = (user) => html`
    ${perform(t('users.role.open'), () => changeRole(user))}
    ${
      isMe(user)
        ? html`<a class="button quiet small" href="/settings?focus=password">${t('users.password.mine')}</a>`
        : perform(t('users.password.open'), () => changePassword(user))
    }
    ${perform(t('action.delete'), () => remove(user))}`;

  /** The server refuses new users while the default password is in use. */
  const head = ({ me }) => html`
    <div class="access-head">
      <div><h2 id="users" tabindex="-1">${t('users.title')}</h2><p class="soft">${t('users.text')}</p></div>
      ${
        me?.user?.must_change_password
          ? null
          : html`
              <button type="button" class="button" @click=${add}>
                ${icon('plus')}${t('users.new.open')}
              </button>`
      }
    </div>
    ${
      me?.user?.must_change_password
        ? note(
            t('users.default_password'),
            html`<a class="button small" href="/settings?focus=password">${t('shell.change_password')}</a>`,
          )
        : null
    }`;

  return {
    load: list.load,
    isReady: list.isReady,
    view: (state) => html`
      <section class="card access-card" aria-labelledby="users">
        ${head(state)}
        ${list.view((users) =>
          dataTable({ labelledBy: 'users', columns: columns(), rows: users, key: ({ id }) => id }),
        )}
      </section>`,
  };
}

const roleChoices = ({ state, update }) =>
  choices({
    legend: t('users.role'),
    name: 'role',
    options: ROLES.map((role) => ({ value: role, text: t(`role.${role}`), hint: t(`role.${role}.hint`) })),
    isChosen: (role) => role === state.role,
    onChoose: (role) => update({ role }),
  });

const lastAdminMessage = (error) => (error.code === 'conflict' ? t('users.last_admin') : errorMessage(error));
