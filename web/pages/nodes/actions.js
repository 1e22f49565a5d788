/** What an administrator can do with a node. Each remembers, a node, whether it is under way and why it failed. */

import { html } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { confirmDialog, formDialog } from '../../components/forms/dialog.js';
import { alertBox, explain } from '../../components/feedback.js';
import { field } from '../../components/forms/field.js';
import { filesOf } from './meters.js';
import { badName, badTags, tagsIn } from './name-rules.js';
import { isLocal } from './status.js';

const NAME_MOST = 63; // characters; the server's rule

export function makeActs(app) {
  const known = new Map(); // id → {busy, error} of its draining
  const path = ({ id }) => `/api/nodes/${encodeURIComponent(id)}`;

  async function drain(node) {
    if (known.get(node.id)?.busy) return;
    const set = (value) => {
      known.set(node.id, value);
      app.touch();
    };
    set({ busy: true, error: null });
    try {
      await app.api.patch(path(node), { draining: !node.draining });
      set({ busy: false, error: null });
    } catch (error) {
      set({ busy: false, error });
    }
  }

  const edit = (node) =>
    formDialog({
      title: t(isLocal(node) ? 'node.tags.title' : 'node.edit.title', { name: node.name }),
      action: t('node.edit.save'),
      fields: () => html`
        ${isLocal(node)
          ? null
          : field({ name: 'name', label: t('node.edit.name'), hint: t('node.edit.name_hint'), value: node.name, most: NAME_MOST, focus: true })}
        ${field({
          name: 'tags',
          label: t('node.tags'),
          hint: t('node.tags.hint'),
          value: node.tags.join(', '),
          optional: true,
          focus: isLocal(node),
        })}`,
      check: (form) => problemIn(form),
      act: (form) => app.api.patch(path(node), { name: nameIn(form), tags: tagsIn(form.get('tags')) }),
      explainError: (error) => (error.code === 'conflict' ? t('node.edit.taken') : explain(error)),
    });

  const remove = (node) =>
    confirmDialog({
      title: t('node.remove.title', { name: node.name }),
      body: removalText(node),
      action: t('node.remove'),
      act: () => app.api.remove(path(node)),
    });

  const act = (text, work, { busy = false, apart = false } = {}) => html`
    <button type="button" class="button quiet small ${apart ? 'apart' : ''}" aria-disabled=${busy ? 'true' : null} @click=${work}>
      ${text}
    </button>`;

  return {
    view(node) {
      const { busy = false, error = null } = known.get(node.id) ?? {};
      return html`
        <div class="node-acts">
          ${act(t(isLocal(node) ? 'node.tags' : 'node.edit'), () => edit(node))}
          ${act(t(node.draining ? 'node.take_back' : 'node.drain'), () => drain(node), { busy })}
          ${isLocal(node) ? null : act(t('node.remove'), () => remove(node), { apart: true })}
        </div>
        ${error ? alertBox(explain(error)) : null}`;
    },
  };
}

/** Undefined for the local node, whose name is not asked for. */
const nameIn = (form) => form.get('name')?.trim();

function problemIn(form) {
  const name = nameIn(form);
  if (name !== undefined && badName(name)) return t('node.edit.name_rule');
  return badTags(tagsIn(form.get('tags'))) ? t('node.tags.rule') : null;
}

function removalText(node) {
  const { count, bytes } = filesOf(node);
  return html`
    <p>${t('node.remove.requests')}</p>
    ${count ? html`<p>${t('node.remove.files', { count, size: f.bytes(bytes) })}</p>` : null}
    <p>${t('node.remove.again')}</p>`;
}
