/** Page of one model: description, memory, replicas, usage, and code to call it. */

import { each, html } from '../../lib/html.js';
import { serverUrl } from '../../lib/base-path.js';
import { descriptionOf, f, fitReason, t, tagText } from '../../core/i18n.js';
import { codeBox, copyButton } from '../../components/copy-button.js';
import { alertBox, emptyState, errorMessage } from '../../components/feedback.js';
import { icon } from '../../components/icons.js';
import { engineButtons, memoryFacts } from './engine-controls.js';
import { clientsFor, codeSample } from './details/code-samples.js';
import { modelActions, modelLine, stateBadges } from './model-row.js';
import { isMultiNode, offlineNodeIds, locationList } from './replica-locations.js';

const CONTEXTS = [4096, 8192, 32768];
const SLOTS = [1, 4];
const USAGE_DAYS = 7;
const DAY_MS = 86_400_000;
const SHA_DIGITS = 12;

export function createModelPage(app, actions, id) {
  const path = `/api/models/${encodeURIComponent(id)}`;
  const data = { files: null, memory: null, fit: null, usage: null, endpoints: [] };
  const errors = {};
  let client = 'curl';
  let closed = false;

  async function load(name, work) {
    try {
      data[name] = await work();
    } catch (error) {
      errors[name] = error;
    }
    if (!closed) app.requestRender();
  }

  /** Requests the memory that a load would take; of a model that does not fit, the memory it would need. */
  async function loadMemory() {
    const memory = (context, slots) => app.api.get(`${path}/memory?context_length=${context}&slots=${slots}`);
    // The first one fetches the header of the file; the others find it in the cache.
    const first = await memory(CONTEXTS[0], SLOTS[0]);
    const trained = first.trained_context_length || Infinity;
    const cell = async (context, slots) => {
      const fit = await app.api.get(`${path}/fit?context_length=${context}&slots=${slots}`);
      if (fit.fits && fit.context_length >= Math.min(context, trained))
        return { bytes: totalOf(fit), verdict: 'fits' };
      return { bytes: (await memory(context, slots)).total_bytes, verdict: 'too_large' };
    };
    load('fit', () => app.api.get(`${path}/fit`));
    return Promise.all(
      CONTEXTS.filter((context, at) => !at || context <= trained).map(async (context) => ({
        context: Math.min(context, trained),
        cells: await Promise.all(SLOTS.map((slots) => cell(context, slots))),
      })),
    );
  }

  async function loadUsage() {
    const from = new Date(Date.now() - (USAGE_DAYS - 1) * DAY_MS).toISOString().slice(0, 10);
    const { usage } = await app.api.get(`/api/usage?by=model&bucket=day&from=${from}T00:00:00Z`);
    return usage.filter(({ key }) => key === id);
  }

  /** Endpoints that answer for the model, too. */
  async function loadEndpoints() {
    const { endpoints } = await app.api.get('/api/endpoints');
    return endpoints.flatMap(({ models, ...endpoint }) =>
      models
        .filter(({ mapped_to: mapped }) => mapped === id)
        .map(({ served_as: name }) => ({ ...endpoint, servedAs: name })),
    );
  }

  load('memory', loadMemory);
  load('files', () => app.api.get(`${path}/files`));
  load('usage', loadUsage);
  load('endpoints', loadEndpoints);

  return {
    close() {
      closed = true;
    },
    view(state) {
      const item = state.models.get(id);
      if (!item)
        return emptyState(
          'models',
          t('model.unknown.title'),
          t('model.unknown.text', { id }),
          html`<a class="button primary" href="/models">${t('local.empty.action')}</a>`,
        );
      const options = { actionState: actions.of(id), canManage: app.can('models:write'), offline: null };
      return html`
        <p class="back"><a href="/models">${icon('back')}${t('nav.models')}</a></p>
        <article class="model-about" aria-labelledby="model-title" data-model=${id} tabindex="-1">
          <div class="model-about-head">
            <div class="model-title">
              <h1 id="model-title" tabindex="-1">${item.model.name}</h1>${stateBadges(item)}
            </div>
            <div class="buttons">
              ${modelActions(app, actions, item, options)}
              ${options.canManage ? engineButtons(app, actions, item, options.actionState) : null}
            </div>
          </div>
          ${item.model.description ? html`<p class="lead">${descriptionOf(item.model)}</p>` : null}
          ${progress(item, options)}
          ${alertBox(options.actionState.error && errorMessage(options.actionState.error))}
          ${facts(item, state.system)}
        </article>
        <div class="model-sections">
          <div>
            ${section(
              'memory',
              html`<dl class="facts">${memoryFacts(item)}</dl> ${memoryTable(data, errors)}`,
            )}
            ${section('usage', usage(data.usage, errors.usage))}
          </div>
          <div>
            ${section('cluster', cluster(app, item, state, options.canManage, data.endpoints))}
            ${section('files', files(data.files, errors.files))}
          </div>
          ${section('code', code(item.model))}
        </div>`;
    },
  };

  function code(model) {
    const clients = clientsFor(model);
    return html`
      <div class="filter-chips" role="group" aria-label=${t('model.code.client')}>
        ${each(
          clients,
          (name) => name,
          (name) => html`
            <button
              type="button"
              class="filter-chip"
              aria-pressed=${String(name === client)}
              @click=${() => {
                client = name;
                app.requestRender();
              }}
            >${t(`model.code.${name}`)}</button>`,
        )}
      </div>
      ${codeBox(t(`model.code.${client}`), codeSample(client, model, serverUrl()))}
      <p class="soft">${t('model.code.key')} <a href="/access">${t('model.code.create_key')}</a></p>`;
  }
}

const section = (name, body) => html`
  <section
    class="card model-section ${name === 'code' ? 'whole-line' : ''}"
    aria-labelledby=${`model-${name}`}
  >
    <h2 id=${`model-${name}`}>${t(`model.section.${name}`)}</h2>
    ${body}
  </section>`;

const loading = (error) =>
  error
    ? html`<p class="soft">${errorMessage(error)}</p>`
    : html`<p class="soft" role="status">${t('common.loading')}</p>`;

const progress = (item, options) =>
  ['Registered', 'Downloading', 'Error'].includes(item.status) || item.partial
    ? html`<div class="model-line">${modelLine(item, options)}</div>`
    : null;

// --- head --------------------------------------------------------------------------------------------

function facts({ model, hf_stats: stats }, system) {
  const repository = system?.hub_url ? `${system.hub_url}/${model.repo}` : null;
  const rows = [
    ['size', f.bytes(model.size_bytes)],
    ['parameters', model.parameter_count],
    ['quantization', model.quantization],
    ['context', model.context_length && t('model.tokens', { count: f.tokens(model.context_length) })],
    ['cards', model.card_contexts?.length && cardContexts(model)],
    ['draft', model.draft && draftLink(model.draft)],
    ['speculation', model.speculation && t(`speculation.${model.speculation}`)],
    ['license', stats?.license],
    ['downloads', stats && f.compact(stats.downloads)],
    ['stars', stats && f.compact(stats.stars)],
    ['updated', stats?.last_modified && f.date(stats.last_modified)],
  ];
  return html`
    <dl class="facts">
      ${rows
        .filter(([, value]) => value)
        .map(([name, value]) => html`<div><dt>${t(`model.${name}`)}</dt><dd>${value}</dd></div>`)}
      <div class="wide">
        <dt>${t('model.repository')}</dt>
        <dd>
          ${
            repository
              ? html`<a href=${repository} target="_blank" rel="noreferrer noopener">${model.repo}${icon(
                  'external',
                )}</a>`
              : model.repo
          }
        </dd>
      </div>
    </dl>
    <ul class="chips" aria-label=${t('model.about')}>
      ${model.capabilities.map((name) => html`<li class="chip">${t(`capability.${name}`)}</li>`)}
      ${model.tags.map(
        (tag) =>
          html`
            <li><a class="chip" href=${`/models?tag=${encodeURIComponent(tag)}`}>${tagText(tag)}</a></li>`,
      )}
    </ul>`;
}

const draftLink = (id) => html`<a href=${`/models/${encodeURIComponent(id)}`}>${id}</a>`;

/** Context of one conversation on one GPU of a usual size. */
const cardContexts = ({ card_contexts: cards }) =>
  cards
    .map(({ vram_gb: size, context_length: context }) =>
      t('model.card', { size: f.bytes(size * 1e9), count: f.tokens(context) }),
    )
    .join(', ');

// --- memory ------------------------------------------------------------------------------------------

function memoryTable({ memory, fit }, errors) {
  if (!memory) return loading(errors.memory);
  return html`
    <p class="soft">${t('model.memory.text')}</p>
    <table class="table memory-table">
      <thead>
        <tr>
          <th scope="col">${t('model.memory.context')}</th>
          ${SLOTS.map(
            (slots) => html`<th scope="col" class="number">${t('model.memory.slots', { count: slots })}</th>`,
          )}
        </tr>
      </thead>
      <tbody>
        ${memory.map(
          ({ context, cells }) => html`
            <tr>
              <th scope="row">${f.tokens(context)}</th>
              ${cells.map(
                ({ bytes, verdict }) => html`
                  <td class="number">
                    <span class="memory-figure fit-${verdict}">
                      ${f.bytes(bytes)}<span class="sr-only">, ${t(`fit.${verdict}`)}</span>
                    </span>
                  </td>`,
              )}
            </tr>`,
        )}
      </tbody>
    </table>
    ${fit ? fitAnswer(fit) : null}`;
}

/** The plan of this host for the model, in the words of `llb fit`. */
const fitAnswer = (fit) => html`
  <p class="fit-answer">
    <strong>${t(fit.fits ? 'model.fit.loads' : 'model.fit.no')}</strong>
    ${
      fit.fits
        ? t('model.fit.with', {
            slots: f.number(fit.slots),
            context: f.tokens(fit.context_length),
            size: f.bytes(totalOf(fit)),
          })
        : null
    }
    ${fit.draft?.state === 'used' ? draftShare(fit.draft) : null}
    ${fitReason(fit)}
  </p>`;

const draftShare = ({ model_id: id, speculation, total_bytes: bytes }) =>
  t('model.fit.draft', { size: f.bytes(bytes), model: speculation ? t(`speculation.${speculation}`) : id });

const totalOf = ({ host, devices }) =>
  devices.reduce((sum, device) => sum + device.total_bytes, host.total_bytes);

// --- the other sections ------------------------------------------------------------------------------

function cluster(app, item, { nodes }, canManage, endpoints) {
  const { placement, replicas, status } = item;
  const openPlacement = async () => {
    const { openPlacementDialog } = await import('./details/load-dialog.js');
    openPlacementDialog(app, item, nodes);
  };
  return html`
    ${
      replicas.length
        ? locationList(item, offlineNodeIds(nodes))
        : html`<p class="soft">${t('model.nowhere')}</p>`
    }
    ${endpoints.length ? endpointList(endpoints) : null}
    ${
      isMultiNode(nodes) && status !== 'Available'
        ? html`
          <p class="placement">
            <span>${placementText(placement, nodes)}</span>
            ${
              canManage
                ? html`<button
                      type="button"
                      class="button small"
                      @click=${openPlacement}
                    >${t('placement.open')}</button>`
                : null
            }
          </p>`
        : null
    }`;
}

const endpointList = (endpoints) => html`
  <ul class="locations" aria-label=${t('model.at_endpoints')}>
    ${endpoints.map(
      ({ name, enabled, servedAs }) => html`
        <li>
          <a class="location-node" href="/nodes/endpoints">${name}</a>
          <span>${t(enabled ? 'model.at_endpoint' : 'model.at_endpoint.disabled')}</span>
          <code>${servedAs}</code>
        </li>`,
    )}
  </ul>`;

function placementText(placement, nodes) {
  if (!placement) return t('placement.on_all');
  if (placement.tag) return t('placement.on_tag', { tag: placement.tag });
  const names = placement.nodes.map((id) => nodes.get(id)?.name ?? id);
  return t('placement.on_nodes', { nodes: names.join(', ') });
}

function files(data, error) {
  if (!data) return loading(error);
  return html`
    <ul class="model-files">
      ${data.files.map(
        (file) => html`
          <li>
            <p><code>${file.name}</code> <span class="soft">${f.bytes(file.size_bytes)}</span></p>
            <p class="soft">
              <span>
                ${t('model.sha256')} <code title=${file.sha256}>${file.sha256.slice(0, SHA_DIGITS)}…</code>
              </span>
              ${
                file.commit
                  ? html`<span>${t('model.commit')} <code>${file.commit.slice(0, SHA_DIGITS)}</code></span>`
                  : null
              }
              ${copyButton(file.sha256, t('model.copy_sha256'))}
            </p>
          </li>`,
      )}
    </ul>`;
}

function usage(rows, error) {
  if (!rows) return loading(error);
  const total = (field) => rows.reduce((sum, row) => sum + row[field], 0);
  if (!total('requests')) return html`<p class="soft">${t('model.usage.none', { count: USAGE_DAYS })}</p>`;
  return html`
    <p class="soft">${t('model.usage.days', { count: USAGE_DAYS })}</p>
    <dl class="facts">
      ${['requests', 'errors', 'prompt_tokens', 'completion_tokens'].map(
        (name) => html`<div><dt>${t(`model.usage.${name}`)}</dt><dd>${f.number(total(name))}</dd></div>`,
      )}
    </dl>`;
}
