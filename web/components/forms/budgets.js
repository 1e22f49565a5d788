/** Budgets of API keys and providers for a day or a month of UTC. For administrators. */

import { html } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { formDialog } from './dialog.js';
import { field } from './field.js';
import { meter } from '../progress.js';

export const PERIODS = ['day', 'month'];
// Same limit as the server.
const MAX_LIMIT_USD = 1_000_000_000;

/** One text for scope and id. */
export const subjectOf = ({ scope, id }) => `${scope}:${id}`;

const ofSubject = (budgets, subject) => budgets.filter((budget) => subjectOf(budget) === subject);

/** Budget of `subject` for a period, or null. */
export const budgetOf = (budgets, subject, period) =>
  ofSubject(budgets, subject).find((budget) => budget.period === period) ?? null;

/** Amount spent of a budget; `name` is that of its key or provider. */
export function budgetUse({ period, limit_usd: limit, used_usd: used }, name) {
  const left = limit - used;
  const text = t('budgets.spent', { used: f.money(used), limit: f.money(limit) });
  return html`
    <div class="budget">
      <p>${text}</p>
      ${meter(
        t(`budgets.meter.${period}`, { name }),
        [{ value: Math.min(used, limit), kind: 'files' }],
        limit,
        text,
      )}
      <p class="soft">${left > 0 ? t('budgets.left', { amount: f.money(left) }) : t('budgets.used_up')}</p>
    </div>`;
}

/**
 * Dialog that sets the budgets of one key or provider. `subjects`: [{group, options: [{subject, name}]}] to
 * choose from; with a single option there is no choice. Resolves to true if they were changed.
 */
export function askForBudgets(app, { subjects, budgets }) {
  const options = subjects.flatMap((group) => group.options);
  const isFixed = options.length === 1;
  return formDialog({
    title: isFixed ? t('budgets.edit.title', { name: options[0].name }) : t('budgets.add'),
    action: t('budgets.save'),
    initialState: { subject: options[0]?.subject },
    fields: ({ state, update }) => html`
      ${
        isFixed
          ? null
          : html`
            <div class="field">
              <label for="field-subject">${t('budgets.subject')}</label>
              <select
                id="field-subject"
                autofocus
                @change=${(event) => update({ subject: event.target.value })}
              >
                ${subjects.map(
                  ({ group, options: found }) => html`
                    <optgroup label=${group}>
                      ${found.map(
                        ({ subject, name }) => html`
                          <option value=${subject} .selected=${subject === state.subject}>${name}</option>`,
                      )}
                    </optgroup>`,
                )}
              </select>
            </div>`
      }
      <input type="hidden" name="subject" value=${state.subject} />
      ${PERIODS.map((period) =>
        field({
          name: period,
          label: t(`budgets.per.${period}`),
          hint: period === 'month' ? t('budgets.hint') : null,
          type: 'number',
          min: 0,
          max: MAX_LIMIT_USD,
          step: 'any',
          value: budgetOf(budgets, state.subject, period)?.limit_usd ?? null,
          optional: true,
          autofocus: isFixed && period === 'day',
        }),
      )}`,
    perform: (form) => replaceBudgets(app, form),
  });
}

async function replaceBudgets(app, form) {
  const subject = form.get('subject');
  const [, scope, id] = /^(\w+):(.*)$/.exec(subject);
  // Those of others may have changed since the list was fetched.
  const { budgets } = await app.api.get('/api/budgets');
  const others = budgets.filter((budget) => subjectOf(budget) !== subject);
  const wanted = PERIODS.filter((period) => form.get(period) !== '').map((period) => ({
    scope,
    id,
    period,
    limit_usd: Number(form.get(period)),
  }));
  await app.api.put('/api/budgets', { budgets: [...others.map(withoutUse), ...wanted] });
}

const withoutUse = ({ scope, id, period, limit_usd }) => ({ scope, id, period, limit_usd });
