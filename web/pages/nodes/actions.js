/**
 * Actions on nodes, for administrators. Remembers per node whether draining is being changed and why it
 * failed.
 */

import { html } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { logsPath } from '../../core/router.js';
import { confirmDialog, formDialog } from '../../components/forms/dialog.js';
import { alertBox, errorMessage } from '../../components/feedback.js';
import { field } from '../../components/forms/field.js';
import { parseTags } from '../../components/forms/lists.js';
import { storedModels } from './meters.js';
import { isInvalidName, hasInvalidTag } from './name-rules.js';
import { isLocal } from './status.js';

// In characters; same limit as the server.
const NAME_MAX_LENGTH = 63;

export function createNodeActions(app) {
  // Node id → {busy, error} of the change.
  const drainState = new Map();
  const path = ({ id }) => `/api/nodes/${encodeURIComponent(id)}`;

  async function toggleDraining(node) {
    if (drainState.get(node.id)?.busy) return;
    const set = (value) => {
      drainState.set(node.id, value);
      app.requestRender();
    };
    set({ busy: true, error: null });
    try {
      await app.api.patch(path(node), { draining: !node.draining });
      set({ busy: false, error: null });
    } catch (error) {
      set({ busy: false, error });
    }
  }

  const editNode = (node) =>
    formDialog({
      title: t(isLocal(node) ? 'node.tags.title' : 'node.edit.title', { name: node.name }),
      action: t('node.edit.save'),
      fields: () => html`
        ${
          isLocal(node)
            ? null
            : field({
                name: 'name',
                label: t('node.edit.name'),
                hint: t('node.edit.name_hint'),
                value: node.name,
                maxLength: NAME_MAX_LENGTH,
                autofocus: true,
              })
        }
        ${field({
          name: 'tags',
          label: t('node.tags'),
          hint: t('node.tags.hint'),
          value: node.tags.join(', '),
          optional: true,
          autofocus: isLocal(node),
        })}`,
      check: (form) => validate(form),
      perform: (form) =>
        app.api.patch(path(node), { name: nameField(form), tags: parseTags(form.get('tags')) }),
      toMessage: (error) => (error.code === 'conflict' ? t('node.edit.taken') : errorMessage(error)),
    });

  const removeNode = (node) =>
    confirmDialog({
      title: t('node.remove.title', { name: node.name }),
      body: removalText(node),
      action: t('node.remove'),
      perform: () => app.api.remove(path(node)),
    });

  const perform = (text, work, { busy = false, apart = false } = {}) => html`
    <button
      type="button"
      class="button quiet small ${apart ? 'separate' : ''}"
      aria-disabled=${busy ? 'true' : null}
      @click=${work}
    >
      ${text}
    </button>`;

  return {
    view(node) {
      const { busy = false, error = null } = drainState.get(node.id) ?? {};
      return html`
        <div class="node-actions">
          ${perform(t('node.edit'), () => editNode(node))}
          ${perform(t(node.draining ? 'node.take_back' : 'node.drain'), () => toggleDraining(node), { busy })}
          <a class="button quiet small" href=${logsPath(node.id)}>${t('node.logs')}</a>
          ${isLocal(node) ? null : perform(t('node.remove'), () => removeNode(node), { apart: true })}
        </div>
        ${error ? alertBox(errorMessage(error)) : null}`;
    },
  };
}

/** Undefined for the local node, which cannot be renamed. */
const nameField = (form) => form.get('name')?.trim();

function validate(form) {
  const name = nameField(form);
  if (name !== undefined && isInvalidName(name)) return t('node.edit.name_rule');
  return hasInvalidTag(parseTags(form.get('tags'))) ? t('node.tags.rule') : null;
}

function removalText(node) {
  const { count, bytes } = storedModels(node);
  return html`
    <p>${t('node.remove.requests')}</p>
    ${count ? html`<p>${t('node.remove.files', { count, size: f.bytes(bytes) })}</p>` : null}
    <p>${t('node.remove.again')}</p>`;
}
