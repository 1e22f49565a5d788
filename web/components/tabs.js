/** Tabs. Each tab is a link with its own URL; arrow keys move between them. */

import { html } from '../lib/html.js';
import { t } from '../core/i18n.js';

/** `tabs`: [{id, path, name, count}]. The panel is the element with the id `tab-panel`. */
export const tabList = (label, tabs, current) => html`
  <div class="tabs" role="tablist" aria-label=${label} @keydown=${walk}>
    ${tabs.map(
      ({ id, path, name, count }) => html`
        <span class="tab-slot" role="presentation">
          <a
            class="tab"
            role="tab"
            id=${`tab-${id}`}
            href=${path}
            aria-selected=${String(id === current)}
            aria-controls="tab-panel"
            tabindex=${id === current ? '0' : '-1'}
            >${name}${count ? html`<span class="count" aria-hidden="true">${count}</span>` : null}</a
          >
        </span>`,
    )}
  </div>`;

/** Tabs of the places that answer requests: the nodes of this cluster, and endpoints elsewhere. */
export const placeTabs = (current) =>
  tabList(
    t('endpoints.tabs'),
    [
      { id: 'nodes', path: '/nodes', name: t('endpoints.tab.nodes') },
      { id: 'endpoints', path: '/nodes/endpoints', name: t('endpoints.tab.endpoints') },
    ],
    current,
  );

function walk(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
  const all = [...event.currentTarget.querySelectorAll('[role=tab]')];
  const at = all.indexOf(event.target);
  if (event.key === ' ' && at >= 0) {
    event.preventDefault();
    all[at].click();
  }
  if (!step || at < 0) return;
  event.preventDefault();
  const next = Number.isFinite(step) ? (at + step + all.length) % all.length : step < 0 ? 0 : all.length - 1;
  all[next].focus();
  all[next].click();
}
