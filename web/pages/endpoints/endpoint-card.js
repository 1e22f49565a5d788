/** Card of an endpoint: its program, its status and its models. */

import { each, html } from '../../lib/html.js';
import { f, hasText, serverText, t } from '../../core/i18n.js';
import { badge } from '../../components/badges.js';
import { budgetOf, budgetUse, PERIODS, subjectOf } from '../../components/forms/budgets.js';
import { note } from '../../components/feedback.js';

const BADGES = {
  healthy: ['good', 'check'],
  busy: ['active'],
  rate_limited: ['waiting'],
  misconfigured: ['bad', 'alert'],
  offline: ['bad', 'alert'],
  disabled: ['waiting'],
};

/** `actions` and `spend`: those of an administrator, or null. `models`: of the catalogue, by id. */
export function endpointCard(endpoint, { models, isOpen, toggle, actions, spend }) {
  const heading = `endpoint-${endpoint.id}`;
  const count = endpoint.models.length;
  return html`
    <section class="card endpoint" aria-labelledby=${heading} tabindex="-1">
      <div class="node-head">
        <h2 id=${heading}>${endpoint.name}</h2>
        ${endpointBadge(endpoint)}
        <p class="soft">${aboutLine(endpoint)}</p>
        ${tags(endpoint)}
      </div>
      ${errorNote(endpoint)}
      <dl class="facts node-facts">${facts(endpoint, spend?.of(endpoint))}</dl>
      ${spend ? budgetsOf(endpoint, spend.budgets()) : null}
      ${
        count
          ? html`
            <details class="endpoint-models" ?open=${isOpen}>
              <summary @click=${(event) => {
                event.preventDefault();
                toggle();
              }}>${t('endpoints.models', { count })}</summary>
              ${isOpen ? modelList(endpoint, models ?? new Map(), actions) : null}
            </details>`
          : html`<p class="soft">${t('endpoints.models.none')}</p>`
      }
      ${actions?.view(endpoint)}
    </section>`;
}

function endpointBadge({ status }) {
  const [kind, iconName] = BADGES[status] ?? ['waiting'];
  return badge(kind, t(`endpoints.status.${status}`), iconName);
}

const errorNote = ({ last_error: error, last_error_code: code, status }) =>
  error && status !== 'disabled' ? note(serverText(error, code), null, 'warning') : null;

const aboutLine = ({ kind, base_url: url, cloud }) =>
  [t(`endpoints.kind.${kind.replaceAll('.', '_')}`), cloud ? t('endpoints.cloud') : null, url]
    .filter(Boolean)
    .join(' · ');

const tags = ({ tags: all }) =>
  all.length
    ? html`<ul class="chips" aria-label=${t('node.tags')}>
        ${all.map((tag) => html`<li class="chip">${tag}</li>`)}
      </ul>`
    : null;

/** Budgets of the endpoint, and those of its kind, which it shares with others. */
function budgetsOf({ id, name, kind }, budgets) {
  const found = [
    [id, name],
    [kind, hasText(`budgets.kind.${kind}`) ? t(`budgets.kind.${kind}`) : kind],
  ].flatMap(([provider, owner]) =>
    PERIODS.map((period) => [
      budgetOf(budgets, subjectOf({ scope: 'provider', id: provider }), period),
      owner,
    ]),
  );
  const shown = found.filter(([budget]) => budget);
  if (!shown.length) return null;
  return html`
    <ul class="endpoint-budgets" aria-label=${t('budgets.title')}>
      ${shown.map(
        ([budget, owner]) => html`
          <li>
            <p class="soft">${owner === name ? '' : `${owner} · `}${t(`budgets.period.${budget.period}`)}</p>
            ${budgetUse(budget, owner)}
          </li>`,
      )}
    </ul>`;
}

function facts(endpoint, spent) {
  const { latency_ms: latency, active_requests: active, max_concurrency: maximum } = endpoint;
  const { key, priority, weight } = endpoint;
  const fact = (name, value) => html`<div><dt>${t(name)}</dt><dd>${value}</dd></div>`;
  return [
    fact('endpoints.latency', latency === null ? '–' : f.milliseconds(latency)),
    fact(
      'endpoints.active',
      maximum === null ? f.number(active) : t('endpoints.active_of', { active, maximum }),
    ),
    spent && (endpoint.cloud || spent.month)
      ? fact(
          'endpoints.spend',
          t('endpoints.spend_text', { day: f.money(spent.day), month: f.money(spent.month) }),
        )
      : null,
    key.set ? fact('endpoints.key', keyText(key)) : null,
    priority || weight !== 1
      ? fact('endpoints.preference', t('endpoints.preference_text', { priority, weight: f.number(weight) }))
      : null,
  ];
}

const keyText = ({ source, last_four: end }) =>
  source === 'environment' ? t('endpoints.key.environment') : t('endpoints.key.stored', { end: end ?? '' });

const modelList = (endpoint, models, actions) => html`
  <ul class="endpoint-model-list">
    ${each(
      endpoint.models,
      ({ id }) => id,
      (model) => html`
        <li>
          <div>
            <code>${model.served_as}</code>
            <p class="soft">${modelText(model, models)}</p>
          </div>
          ${actions?.mapping(endpoint, model, models)}
        </li>`,
    )}
  </ul>`;

/** Context, and the model of the catalogue that it is or may be. */
function modelText({ context_length: context, mapped_to: mapped, suggestion }, models) {
  const nameOf = (id) => models.get(id)?.model.name ?? id;
  return [
    context ? t('endpoints.context', { tokens: f.tokens(context) }) : null,
    mapped ? t('endpoints.mapped', { name: nameOf(mapped) }) : null,
    !mapped && suggestion ? t('endpoints.suggestion', { name: nameOf(suggestion) }) : null,
  ]
    .filter(Boolean)
    .join(' · ');
}
