/** Node card: hardware, and for an online node its utilisation, engines and downloads. */

import { html } from '../../lib/html.js';
import { f, serverText, t } from '../../core/i18n.js';
import { activeDownloads } from './downloads.js';
import { engineList } from './engine-list.js';
import { diskModels } from './disk.js';
import { hostUsage } from './host-usage.js';
import { diskMeter, storedModels, memoryMeter } from './meters.js';
import { downloadList } from './download-list.js';
import { isOnline, nodeNotes, beforeDot, connectionFact, nodeBadge } from './status.js';

/** `actions`: template with the permitted actions, or null. */
export function nodeCard(state, node, acts) {
  const heading = `node-${node.id}`;
  const downloads = activeDownloads(node);
  return html`
    <section class="card node" aria-labelledby=${heading} tabindex="-1">
      <div class="node-head">
        <h2 id=${heading}>${node.name}</h2>
        ${nodeBadge(node)}
        <p class="soft" title=${node.platform}>${summaryLine(node)}</p>
        ${tags(node)}
      </div>
      ${node.status === 'joining' ? null : facts(node)} ${nodeNotes(node, state.system)}
      ${
        isOnline(node)
          ? html`
            <div class="node-columns">
              <div class="node-meters">${memoryMeter(node)} ${diskMeter(node, downloads)}</div>
              ${hostUsage(node, state.traffic.get(node.id))}
            </div>
            ${engineList(state, node)} ${downloadList(state, downloads)}`
          : null
      }
      ${diskModels(state, node)} ${acts}
    </section>`;
}

const tags = (node) =>
  node.tags.length
    ? html`<ul class="chips" aria-label=${t('node.tags')}>${node.tags.map(
        (tag) => html`<li class="chip">${tag}</li>`,
      )}</ul>`
    : null;

function facts(node) {
  const { cpu, cpu_count: cores, memory_total_bytes: memory, gpus, engine } = node.hardware;
  const files = storedModels(node);
  return html`
    <dl class="facts node-facts">
      ${connectionFact(node)}
      <div>
        <dt>${t('node.cpu')}</dt>
        <dd>${beforeDot(cpu)} <small>${t('node.cores', { count: cores })}</small></dd>
      </div>
      <div><dt>${t('node.ram')}</dt><dd>${f.bytes(memory)}</dd></div>
      <div>
        <dt>${t('node.gpu')}</dt>
        ${gpus.length ? gpus.map(gpuFact) : html`<dd>${t('node.gpu.none')}</dd>`}
      </div>
      ${engine ? engineFact(engine, node.problems ?? []) : null}
      ${
        isOnline(node)
          ? null
          : html`
            <div>
              <dt>${t('node.models')}</dt>
              <dd>${t('node.models_of', { count: files.count, size: f.bytes(files.bytes) })}</dd>
            </div>`
      }
    </dl>`;
}

/** Version and platform, and for an offline node the time it was last seen. */
function summaryLine({ version, platform, status, last_seen: seen }) {
  if (status === 'joining') return null;
  // The clocks may differ, and a time in the future makes no sense here.
  const ago = f.ago(Math.min(seen, Date.now() / 1000));
  return t(status === 'online' ? 'node.about' : 'node.about.away', {
    version,
    platform: shortPlatform(platform),
    ago,
    time: f.dateTime(seen),
  });
}

/** "Linux-6.1.0-18-amd64-x86_64-with-glibc2.36" → "Linux 6.1 · x86-64"; an unknown form stays as it is. */
function shortPlatform(platform) {
  const [, system, release] = /^([A-Za-z]+)-(\d+(?:\.\d+)?)/.exec(platform) ?? [];
  const [machine] = /x86_64|amd64|aarch64|arm64|riscv64|ppc64le/i.exec(platform) ?? [];
  if (!system) return platform;
  const name = system === 'Darwin' ? 'macOS' : system;
  return [`${name} ${release}`, machine?.replace('_', '-')].filter(Boolean).join(' · ');
}

const BUILDS = { cpu: 'CPU', cuda: 'CUDA', rocm: 'ROCm', vulkan: 'Vulkan', metal: 'Metal' };

/** Build of llama.cpp in use; why a better one is not, unless the notes of the node say that already. */
const engineFact = ({ build, version, reason, reason_code: code }, problems) => html`
  <div>
    <dt>${t('node.engine')}</dt>
    <dd>
      ${t('node.engine.build', { version: version.split('.').at(-1), build: BUILDS[build] ?? build })}
      ${reason && !problems.includes(reason) ? html`<small>· ${serverText(reason, code)}</small>` : null}
    </dd>
  </div>`;

const unusedBecause = ({ hidden }) => (hidden ? 'node.gpu.hidden' : 'node.gpu.unusable');

const gpuFact = (gpu) => html`
  <dd>
    ${beforeDot(gpu.name)}
    <small>${t('node.gpu.memory', {
      total: f.bytes(gpu.memory_total_bytes),
      free: f.bytes(gpu.memory_free_bytes),
    })}</small>
    ${gpu.usable ? null : html`<small class="unusable">${t(unusedBecause(gpu))}</small>`}
  </dd>`;
