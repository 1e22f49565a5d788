/** Budgets of API keys and providers. Administrators only. */

import { html } from '../../lib/html.js';
import { t } from '../../core/i18n.js';
import { askForBudgets, budgetOf, budgetUse, PERIODS, subjectOf } from '../../components/forms/budgets.js';
import { dataTable } from '../../components/data-table.js';
import { icon } from '../../components/icons.js';
import { createRemoteList } from './remote-list.js';

// Providers that are a kind of endpoint, whatever its name.
const KINDS = ['openai', 'anthropic', 'google'];

/** `changed()` is called after each change. */
export function createBudgetSection(app, changed) {
  const list = createRemoteList(app, async () => {
    const [{ budgets }, { keys }, { endpoints }] = await Promise.all([
      app.api.get('/api/budgets'),
      app.api.get('/api/keys?order=newest'),
      app.api.get('/api/endpoints'),
    ]);
    return { budgets, groups: groupsOf(keys, endpoints) };
  });

  async function ask(subjects, budgets) {
    if (await askForBudgets(app, { subjects, budgets })) changed();
  }

  const columns = (budgets) => [
    { title: t('budgets.subject'), cell: ({ name }) => name },
    ...PERIODS.map((period) => ({
      title: t(`budgets.period.${period}`),
      cell: ({ subject, name }) => {
        const budget = budgetOf(budgets, subject, period);
        return budget ? budgetUse(budget, name) : '–';
      },
    })),
    {
      title: t('access.actions'),
      kind: 'actions',
      cell: (row) => html`
        <button
          type="button"
          class="button quiet small"
          aria-label=${t('budgets.edit.title', { name: row.name })}
          @click=${() => ask([{ group: '', options: [row] }], budgets)}
        >
          ${t('budgets.edit')}
        </button>`,
    },
  ];

  /** A row for each key or provider that has a budget. */
  function table({ budgets, groups }) {
    const options = groups.flatMap((group) => group.options);
    const nameOf = (subject) => options.find((each) => each.subject === subject)?.name ?? subject;
    const rows = [...new Set(budgets.map(subjectOf))].map((subject) => ({ subject, name: nameOf(subject) }));
    if (!rows.length) return html`<p class="access-none">${t('budgets.none')}</p>`;
    return dataTable({
      labelledBy: 'budgets',
      columns: columns(budgets),
      rows,
      key: ({ subject }) => subject,
    });
  }

  const addButton = ({ budgets, groups }) =>
    groups.length
      ? html`
        <button type="button" class="button" @click=${() => ask(groups, budgets)}>
          ${icon('plus')}${t('budgets.add')}
        </button>`
      : null;

  return {
    load: () => list.load(),
    isReady: list.isReady,
    view: () => html`
      <section class="card access-card" aria-labelledby="budgets">
        <div class="access-head">
          <div>
            <h2 id="budgets" tabindex="-1">${t('budgets.title')}</h2>
            <p class="soft">${t('budgets.text')}</p>
          </div>
          ${list.show(addButton)}
        </div>
        ${list.view(table)}
      </section>`,
  };
}

/** Keys and providers to choose from. */
function groupsOf(keys, endpoints) {
  const kinds = KINDS.filter((kind) => endpoints.some((endpoint) => endpoint.kind === kind));
  const providers = [
    ...endpoints.map(({ id, name }) => ({ subject: subjectOf({ scope: 'provider', id }), name })),
    ...kinds.map((kind) => ({
      subject: subjectOf({ scope: 'provider', id: kind }),
      name: t(`budgets.kind.${kind}`),
    })),
  ];
  return [
    {
      group: t('budgets.keys'),
      options: keys.map(({ id, name }) => ({ subject: subjectOf({ scope: 'key', id }), name })),
    },
    { group: t('budgets.providers'), options: providers },
  ].filter(({ options }) => options.length);
}
