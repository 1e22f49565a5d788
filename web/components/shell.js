/** Shell around every page: logo, navigation, connection status and account. */

import { html } from '../lib/html.js';
import { f, t } from '../core/i18n.js';
import { isDark } from '../core/preferences.js';
import { buildUrl } from '../core/router.js';
import { icon, logo } from './icons.js';

export const SECTIONS = ['models', 'playground', 'nodes', 'requests', 'access', 'settings'];

/** `counts`: section → {count, key, kind} shown next to its link; `key` is the text that explains it. */
export const shell = ({ state, route, counts, content, onSignOut, onReconnect, onTheme }) => html`
  <div class="app">
    <a class="skip" href="#main">${t('shell.skip')}</a>
    <header class="side">
      <a class="brand" href="/models">${logo()}<span>llb</span></a>
      <nav class="nav" aria-label=${t('shell.navigation')}>
        <ul>
          ${SECTIONS.map(
            (name) => html`
              <li
                class=${counts[name] ? 'with-count' : ''}
                title=${counts[name] ? countText(counts[name]) : null}
              >
                <a href=${`/${name}`} aria-current=${(route.section ?? route.page) === name ? 'page' : null}>
                  ${icon(name)}<span>${t(`nav.${name}`)}</span>
                </a>
                ${counts[name] ? countBadge(counts[name]) : null}
              </li>`,
          )}
        </ul>
      </nav>
      <div class="side-foot">
        <div class="side-state">${connectionStatus(state)} ${themeButton(onTheme)}</div>
        <div class="account">
          <span class="account-name">${state.me?.user?.username ?? ''}</span>
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

function themeButton(onTheme) {
  const text = t(isDark() ? 'shell.theme.light' : 'shell.theme.dark');
  return html`
    <button
      type="button"
      class="button quiet small square"
      aria-label=${text}
      title=${text}
      @click=${onTheme}
    >
      ${icon('theme')}
    </button>`;
}

/** Shell for visitors who are not signed in. Signing in leads back to `path`. */
export const signedOutShell = (content, path) => html`
  <div class="signed-out">
    <a class="skip" href="#main">${t('shell.skip')}</a>
    <header class="signed-out-head">
      <a class="brand" href="/">${logo()}<span>llb</span></a>
      <a class="button small" href=${buildUrl('/login', { next: path })}>${t('login.submit')}</a>
    </header>
    <main id="main" tabindex="-1">${content}</main>
  </div>`;

const countText = ({ count, key }) => t(key, { count });

const countBadge = (found) => html`
  <span class="count ${found.kind ?? ''}">
    <span aria-hidden="true">${f.number(found.count)}</span><span class="sr-only">${countText(found)}</span>
  </span>`;

const connectionStatus = ({ connection }) => html`
  <p class="connection ${connection.status}">
    <i class="dot"></i><span>${t(`connection.${connection.status}`)}</span>
  </p>`;

/** Warns that the data may be stale. Nothing is shown while the first connection is being established. */
function connectionBanner({ connection }, onReconnect) {
  const stale = connection.status !== 'connected' && connection.since !== null;
  return html`
    <div class="banner-region" role="status">
      ${
        stale
          ? html`
            <div class="banner warning">
              ${icon('alert')}
              <p>${t('connection.stale', { time: f.timeOfDay(connection.since / 1000) })}</p>
              <button
                type="button"
                class="button small"
                @click=${onReconnect}
              >${t('connection.reconnect')}</button>
            </div>`
          : null
      }
    </div>`;
}

const passwordBanner = ({ me }, route) =>
  me?.user?.must_change_password
    ? html`
        <div class="banner warning" id="default-password">
          ${icon('alert')}
          <p>${t('shell.default_password')}</p>
          ${
            route.page === 'settings'
              ? null
              : html`<a class="button small" href="/settings?focus=password">${t(
                  'shell.change_password',
                )}</a>`
          }
        </div>`
    : null;
