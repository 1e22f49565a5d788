/** Local tab: the models stored in this cluster, with load state and actions. */

import { each, html } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { buildUrl, modelPath } from '../../core/router.js';
import { badge } from '../../components/badges.js';
import { progressBar } from '../../components/progress.js';
import { confirmDialog } from '../../components/forms/dialog.js';
import { engineBadge } from '../../components/engine-status.js';
import { alertBox, emptyState, errorMessage } from '../../components/feedback.js';
import { icon } from '../../components/icons.js';
import { busyAttribute } from './actions.js';
import { engineButtons, memoryFacts } from './engine-controls.js';
import {
  canTry,
  diskBytes,
  isChat,
  isDownload,
  largestMemory,
  lastUsed,
  LOCAL_ORDERS,
  sortLocal,
} from './groups.js';
import { modelRow, openInPlayground } from './model-row.js';
import { offlineNodeIds, isMultiNode, locationList } from './replica-locations.js';

const STORED_STATES = new Set(['ready', 'deleting']);

/** Whether a model is complete on some node, or being deleted from it. */
const isStored = ({ replicas }) => replicas.some(({ state }) => STORED_STATES.has(state));

/** Whether the Local tab lists a model: it is on a disk, or on its way there. */
export const isLocal = (item) => isStored(item) || isDownload(item);

export function createLocalTab(app, actions, downloads) {
  async function askToDelete(item, offlineIds) {
    const { model } = item;
    const resultView = await confirmDialog({
      title: t('local.delete.title', { name: model.name }),
      body: deletionText(item, offlineIds),
      action: t('action.delete'),
      perform: () => actions.remove(model.id),
    });
    if (resultView) actions.forget(model.id);
  }

  return {
    view(state, route) {
      const local = [...state.models.values()].filter(isLocal);
      const incoming = local.filter((item) => isDownload(item) && !isStored(item));
      const stored = local.filter(isStored);
      if (!local.length) {
        return emptyState(
          'models',
          t('local.empty.title'),
          t('local.empty.text'),
          html`<a class="button primary" href="/models">${t('local.empty.action')}</a>`,
        );
      }
      const offline = isMultiNode(state.nodes) ? offlineNodeIds(state.nodes).join(' ') : null;
      const nextOf = downloads.nextActions(state);
      return html`
        ${
          incoming.length
            ? html`
              <section class="model-group downloads" aria-labelledby="local-downloads">
                <div class="group-head">
                  <h2 id="local-downloads" class="group-title">
                    ${t('hub.group.downloads')} <span class="group-count">${incoming.length}</span>
                  </h2>
                  ${downloads.tools(state)}
                </div>
                <div class="model-rows">
                  ${each(
                    downloads.sorted(incoming),
                    ({ model }) => model.id,
                    (item) =>
                      modelRow(app, actions, item, {
                        actionState: actions.of(item.model.id),
                        shown: true,
                        canManage: app.can('models:write'),
                        offline,
                        largest: largestMemory(state.nodes),
                        folded: false,
                        next: nextOf(item),
                      }),
                  )}
                </div>
              </section>`
            : null
        }
        ${stored.length ? localHead(app, stored, state.nodes, route.query.sort ?? '') : null}
        <div class="locals">
          ${each(
            sortLocal(stored, route.query.sort),
            ({ model }) => model.id,
            (item) => row(app, actions, item, state.nodes, askToDelete),
          )}
        </div>`;
    },
  };
}

const onlineNodes = (nodes) => [...(nodes?.values() ?? [])].filter(({ status }) => status === 'online');

/** Space of all models on the disks, free space, and the order of the list. */
const localHead = (app, stored, nodes, order) => html`
  <div class="local-head">
    <p>
      ${t('local.total', {
        count: stored.length,
        size: f.bytes(stored.reduce((total, item) => total + diskBytes(item), 0)),
      })}
      <span class="soft">${onlineNodes(nodes).map(
        ({ name: node, disk_free_bytes: free }) => ` · ${t('local.free', { node, size: f.bytes(free) })}`,
      )}</span>
    </p>
    <select
      class="control"
      aria-label=${t('hub.filter.sort')}
      @change=${(event) =>
        app.go(buildUrl('/models/local', { sort: event.target.value }), { replace: true })}
    >
      ${LOCAL_ORDERS.map(
        (each) => html`
          <option value=${each} .selected=${each === order}>
            ${t(each ? `local.sort.${each}` : 'hub.any.sort')}
          </option>`,
      )}
    </select>
  </div>`;

function row(app, actions, item, nodes, askToDelete) {
  const { model } = item;
  const heading = `local-${model.id}`;
  const replicas = item.replicas.filter(({ state }) => STORED_STATES.has(state));
  const deleting = item.status === 'Available' || replicas.every(({ state }) => state === 'deleting');
  const engines = replicas.map(({ engine }) => engine).filter(Boolean);
  const actionState = actions.of(model.id);
  const canManage = app.can('models:write');
  const several = isMultiNode(nodes);
  const used = lastUsed({ replicas });
  return html`
    <article class="card local" aria-labelledby=${heading} tabindex="-1" data-model=${model.id}>
      <div class="local-name">
        <h2 id=${heading}><a href=${modelPath(model.id)}>${model.name}</a></h2>
        ${deleting ? badge('waiting', t('local.deleting')) : engineBadge(engines)}
        ${item.supported ? null : badge('waiting', t('local.unsupported'))}
      </div>
      <div class="buttons">
        ${
          deleting || item.status !== 'Ready' || !canTry(model)
            ? null
            : html`<button
                  type="button"
                  class="button small"
                  @click=${() => openInPlayground(app, model)}
                >${icon('playground')}${t(isChat(model) ? 'action.try' : 'action.try_out')}</button>`
        }
        ${canManage && !deleting ? engineButtons(app, actions, item, actionState) : null}
        ${
          canManage && !deleting
            ? html`<button
                  type="button"
                  class="button small"
                  aria-describedby=${heading}
                  aria-disabled=${busyAttribute(actionState)}
                  @click=${() => askToDelete(item, offlineNodeIds(nodes))}
                >
              ${icon('trash')}${t('action.delete')}
            </button>`
            : null
        }
      </div>
      <dl class="facts wide">
        <div><dt>${t('local.size')}</dt><dd>${sizeText(replicas)}</dd></div>
        ${memoryFacts(item)}
        ${
          several
            ? null
            : html`
              <div>
                <dt>${t('local.nodes')}</dt>
                <dd>${replicas.map((replica) => replica.node_name).join(', ')}</dd>
              </div>`
        }
        <div><dt>${t('local.last_used')}</dt><dd>${used ? f.ago(used) : t('local.never')}</dd></div>
      </dl>
      ${loadingBar(model, engines)}
      ${several ? locationList(item, offlineNodeIds(nodes)) : paths(replicas)}
      ${actionState.error ? html`<div class="wide">${alertBox(errorMessage(actionState.error))}</div>` : null}
    </article>`;
}

function loadingBar(model, engines) {
  const starting = engines.find(({ state }) => state === 'starting');
  if (!starting) return null;
  return html`<div class="wide">${progressBar(
    t('local.loading', { name: model.name }),
    starting.progress ?? null,
  )}</div>`;
}

/** Size on the disk of each node: all copies of a model are equal. */
function sizeText(replicas) {
  const stored = replicas.filter(({ state }) => state === 'ready');
  const size = Math.max(0, ...replicas.map(({ size_bytes: bytes }) => bytes));
  return stored.length > 1
    ? t('local.size_each', { size: f.bytes(size), count: f.number(stored.length) })
    : f.bytes(size);
}

const paths = (replicas) =>
  replicas.some(({ path }) => path)
    ? html`
        <ul class="paths wide" aria-label=${t('local.paths')}>
          ${replicas.filter(({ path }) => path).map((replica) => html`<li><code>${replica.path}</code></li>`)}
        </ul>`
    : null;

function deletionText({ replicas }, offlineIds) {
  const holders = replicas.filter(({ state }) => state === 'ready');
  const names = holders.map((replica) => replica.node_name);
  const later = holders
    .filter(({ node_id: id }) => offlineIds.includes(id))
    .map((replica) => replica.node_name);
  return html`
    <p>${t('local.delete.files', {
      size: f.bytes(Math.max(0, ...holders.map(({ size_bytes: bytes }) => bytes))),
      nodes: names.join(', '),
      count: names.length,
    })}</p>
    ${paths(replicas)}
    ${
      later.length
        ? html`<p>${t('local.delete.later', { count: later.length, nodes: later.join(', ') })}</p>`
        : null
    }
    <p>${t('local.delete.requests')}</p>
    <p>${t('local.delete.again')}</p>`;
}
