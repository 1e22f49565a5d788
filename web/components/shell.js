/** The frame around every page: brand, navigation, how live it is, who is signed in. */

import { html } from '../lib/html.js';
import { f, t } from '../core/i18n.js';
import { address } from '../core/router.js';
import { icon, mark } from './icons.js';

export const SECTIONS = ['models', 'playground', 'nodes', 'requests', 'access', 'settings'];

/** `counts`: section → a short text that stands beside its link. */
export const shell = ({ state, route, counts, content, onSignOut, onReconnect }) => html`
  <div class="app">
    <a class="skip" href="#main">${t('shell.skip')}</a>
    <header class="side">
      <a class="brand" href="/models">${mark()}<span>llb</span></a>
      <nav class="nav" aria-label=${t('shell.navigation')}>
        <ul>
          ${SECTIONS.map(
            (name) => html`
              <li class=${counts[name] ? 'with-count' : ''}>
                <a href=${`/${name}`} aria-current=${route.page === name ? 'page' : null}>
                  ${icon(name)}<span>${t(`nav.${name}`)}</span>
                </a>
                ${counts[name] ? html`<span class="count" aria-hidden="true">${counts[name]}</span>` : null}
              </li>`,
          )}
        </ul>
      </nav>
      <div class="side-foot">
        ${liveSign(state)}
        <div class="who">
          <span class="who-name">${state.me?.user?.username ?? ''}</span>
          <button type="button" class="button quiet small" @click=${onSignOut}>
            ${icon('out')}<span>${t('shell.log_out')}</span>
          </button>
        </div>
      </div>
    </header>
    <main id="main" tabindex="-1">
      ${connectionBanner(state, onReconnect)} ${passwordBanner(state, route)} ${content}
    </main>
  </div>`;

/** The frame around a page for whoever is not signed in; signing in leads back to `path`. */
export const porch = (content, path) => html`
  <div class="porch">
    <a class="skip" href="#main">${t('shell.skip')}</a>
    <header class="porch-head">
      <a class="brand" href="/">${mark()}<span>llb</span></a>
      <a class="button small" href=${address('/login', { next: path })}>${t('login.submit')}</a>
    </header>
    <main id="main" tabindex="-1">${content}</main>
  </div>`;

const liveSign = ({ live }) => html`
  <p class="live ${live.status}">
    <i class="dot"></i><span>${t(`live.${live.status}`)}</span>
  </p>`;

/** Says that what is shown may be old, once it is; a connection that is only being made says nothing. */
function connectionBanner({ live }, onReconnect) {
  const stale = live.status !== 'live' && live.since !== null;
  return html`
    <div class="banner-place" role="status">
      ${stale
        ? html`
            <div class="banner warning">
              ${icon('alert')}
              <p>${t('live.stale', { time: f.timeOfDay(live.since / 1000) })}</p>
              <button type="button" class="button small" @click=${onReconnect}>${t('live.reconnect')}</button>
            </div>`
        : null}
    </div>`;
}

const passwordBanner = ({ me }, route) =>
  me?.user?.must_change_password
    ? html`
        <div class="banner warning" id="default-password">
          ${icon('alert')}
          <p>${t('shell.default_password')}</p>
          ${route.page === 'settings' ? null : html`<a class="button small" href="/settings?focus=password">${t('shell.change_password')}</a>`}
        </div>`
    : null;
