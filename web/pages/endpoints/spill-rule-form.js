/** Dialog for one spill rule: model, target and triggers. */

import { html } from '../../lib/html.js';
import { t } from '../../core/i18n.js';
import { formDialog } from '../../components/forms/dialog.js';
import { choices } from '../../components/forms/choices.js';
import { field } from '../../components/forms/field.js';

export const TRIGGERS = ['unavailable', 'busy', 'context', 'error'];
const NAMES_ID = 'spill-names';

/**
 * `model` and `rule` are null for a new rule, `names` are suggestions. `save(model, rule)` rejects on
 * failure. Resolves to true if the rule was saved.
 */
export const askForRule = ({ model, rule, names, save }) =>
  formDialog({
    title: rule ? t('spill.edit.title', { name: model }) : t('spill.add'),
    action: t('spill.save'),
    initialState: { when: new Set(rule?.when ?? ['unavailable']) },
    fields: ({ state, update }) => html`
      <datalist id=${NAMES_ID}>${names.map((name) => html`<option value=${name}></option>`)}</datalist>
      ${
        rule
          ? null
          : field({
              name: 'model',
              label: t('spill.model'),
              hint: t('spill.model.hint'),
              list: NAMES_ID,
              autofocus: true,
            })
      }
      ${field({
        name: 'target',
        label: t('spill.target'),
        hint: t('spill.target.hint'),
        value: rule?.target,
        list: NAMES_ID,
        autofocus: Boolean(rule),
      })}
      ${choices({
        legend: t('spill.when'),
        name: 'when',
        type: 'checkbox',
        options: TRIGGERS.map((value) => ({
          value,
          text: t(`spill.when.${value}`),
          hint: t(`spill.when.${value}.hint`),
        })),
        isChosen: (value) => state.when.has(value),
        onChoose(value, chosen) {
          const when = new Set(state.when);
          if (chosen) when.add(value);
          else when.delete(value);
          update({ when });
        },
      })}
      ${
        state.when.has('busy')
          ? field({
              name: 'after_s',
              label: t('spill.after_s'),
              type: 'number',
              min: 0,
              step: 'any',
              value: rule?.after_s ?? 0,
            })
          : null
      }`,
    check: (form) => (form.getAll('when').length ? null : t('spill.no_trigger')),
    perform: (form) =>
      save(model ?? form.get('model').trim(), {
        target: form.get('target').trim(),
        when: form.getAll('when'),
        after_s: Number(form.get('after_s') ?? 0),
      }),
  });
