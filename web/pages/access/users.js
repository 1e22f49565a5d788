/** The people who may sign in. For administrators. */

import { each, html } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { badge } from '../../components/badges.js';
import { confirmDialog, formDialog } from '../../components/dialog.js';
import { note } from '../../components/feedback.js';
import { icon } from '../../components/icons.js';
import { makeList } from './list.js';

const ROLES = ['user', 'admin'];
const LEAST_PASSWORD = 8;

export function openUsers(app) {
  const list = makeList(app, async () => (await app.api.get('/api/users')).users);
  const path = ({ id }) => `/api/users/${encodeURIComponent(id)}`;

  const form = async (options) => {
    if (await formDialog(options)) list.load();
  };

  const add = () =>
    form({
      title: t('users.new.title'),
      action: t('users.new.action'),
      fields: () => html`
        <label class="field">
          <span>${t('login.username')}</span>
          <input name="username" maxlength="64" required autocomplete="off" autocapitalize="none" spellcheck="false" autofocus />
        </label>
        ${passwordField(t('login.password'))} ${roleField('user')}`,
      act: (data) => app.api.post('/api/users', Object.fromEntries(data)),
    });

  const changeRole = (user) =>
    form({
      title: t('users.role.title', { name: user.username }),
      action: t('users.save'),
      fields: () => roleField(user.role),
      act: (data) => app.api.patch(path(user), { role: data.get('role') }),
    });

  const changePassword = (user) =>
    form({
      title: t('users.password.title', { name: user.username }),
      action: t('users.save'),
      fields: () => html`<p class="soft">${t('users.password.text')}</p>${passwordField(t('users.password.new'))}`,
      act: (data) => app.api.patch(path(user), { password: data.get('password') }),
    });

  async function remove(user) {
    const done = await confirmDialog({
      title: t('users.delete.title', { name: user.username }),
      body: t('users.delete.text'),
      action: t('action.delete'),
      act: () => app.api.remove(path(user)),
    });
    if (done) list.load();
  }

  const row = (user, me) => html`
    <tr>
      <th scope="row">${user.username} ${user.id === me?.id ? badge('', t('users.you')) : null}</th>
      <td>${t(`role.${user.role}`)}</td>
      <td class="nowrap">${f.dateTime(user.created_at)}</td>
      <td class="number nowrap">
        <button type="button" class="button quiet small" @click=${() => changeRole(user)}>${t('users.role')}</button>
        ${user.id === me?.id
          ? html`<a class="button quiet small" href="/settings?focus=password">${t('users.password')}</a>`
          : html`
              <button type="button" class="button quiet small" @click=${() => changePassword(user)}>${t('users.password')}</button>
              <button type="button" class="button quiet small" @click=${() => remove(user)}>${t('action.delete')}</button>`}
      </td>
    </tr>`;

  const table = (users, me) => html`
    <div class="table-place" tabindex="0" role="region" aria-label=${t('users.table')}>
      <table class="table">
        <thead>
          <tr>
            ${['name', 'role', 'since'].map((name) => html`<th scope="col">${t(`users.${name}`)}</th>`)}
            <th><span class="sr-only">${t('access.actions')}</span></th>
          </tr>
        </thead>
        <tbody>${each(users, ({ id }) => id, (user) => row(user, me))}</tbody>
      </table>
    </div>`;

  return {
    load: list.load,
    view: ({ me }) => html`
      <section class="card access-card" aria-labelledby="users">
        <div class="access-head">
          <div><h2 id="users">${t('users.title')}</h2><p class="soft">${t('users.text')}</p></div>
          ${me?.user?.must_change_password
            ? null
            : html`<button type="button" class="button" @click=${add}>${icon('plus')}${t('users.new.open')}</button>`}
        </div>
        ${me?.user?.must_change_password
          ? note(t('users.default_password'), html`<a class="button small" href="/settings?focus=password">${t('shell.change_password')}</a>`)
          : null}
        ${list.items === null ? list.placeholder() : table(list.items, me?.user)}
      </section>`,
  };
}

const passwordField = (label) => html`
  <label class="field">
    <span>${label}</span>
    <input name="password" type="password" minlength=${LEAST_PASSWORD} required autocomplete="new-password" />
    <small>${t('password.hint', { count: LEAST_PASSWORD })}</small>
  </label>`;

const roleField = (role) => html`
  <label class="field">
    <span>${t('users.role')}</span>
    <select name="role">
      ${ROLES.map((each) => html`<option value=${each} .selected=${each === role}>${t(`role.${each}`)}</option>`)}
    </select>
    <small>${t('role.hint')}</small>
  </label>`;
