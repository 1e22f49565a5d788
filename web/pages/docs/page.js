/** API reference: browses and searches `/api/openapi.json`. Needs no login. */

import { each, html, memo } from '../../lib/html.js';
import { locale, t } from '../../core/i18n.js';
import { buildUrl } from '../../core/router.js';
import { alertBox, emptyState, errorMessage, skeletons } from '../../components/feedback.js';
import { icon } from '../../components/icons.js';
import { dataTable } from '../../components/data-table.js';
import { operationView } from './operation.js';
import { searchOperations, parseOpenApi } from './openapi.js';
import { paragraphs, inlineMarkup } from './inline-markup.js';

export const title = () => t('docs.title');

const SOURCE = '/api/openapi.json';

export function open(app) {
  let reference = null;
  let loadError = null;
  // Increases whenever a section is opened or closed.
  let revision = 0;
  const opened = new Set();

  const ui = {
    find: (ref) => reference.find(ref),
    isOpen: (place) => opened.has(place),
    toggle(place, open) {
      if (opened.has(place) === open) return;
      opened[open ? 'add' : 'delete'](place);
      // The first level of a request body opens with its operation; nested objects open on demand.
      if (open) reference.operations.get(place)?.bodySections.forEach((body) => opened.add(body));
      revision += 1;
      app.requestRender();
    },
  };

  async function load() {
    loadError = null;
    try {
      reference = parseOpenApi(await app.api.get(SOURCE));
      ui.commonErrors = reference.commonErrors;
      app.requestRender();
      showLinked();
    } catch (error) {
      loadError = error;
      app.requestRender();
    }
  }

  /** Opens the operation named in the URL and scrolls to it. */
  function showLinked() {
    const id = decodeURIComponent(location.hash.slice(1));
    if (!reference || !id) return;
    if (reference.operations.has(id)) ui.toggle(id, true);
    requestAnimationFrame(() => {
      const place = document.getElementById(id);
      place?.scrollIntoView();
      (place?.querySelector('summary') ?? place)?.focus({ preventScroll: true });
    });
  }

  const search = (query) => html`
    <search class="filters docs-search">
      <label class="search">
        ${icon('search')}<span class="sr-only">${t('docs.search')}</span>
        <input
          class="control"
          type="search"
          placeholder=${t('docs.search')}
          .value=${query.q ?? ''}
          @input=${(event) =>
            app.go(buildUrl('/docs', { ...query, q: event.target.value }), { replace: true })}
        />
      </label>
    </search>`;

  function content(query) {
    const tags = searchOperations(reference.tags, query.q ?? '');
    const count = tags.reduce((sum, { operations }) => sum + operations.length, 0);
    return html`
      <div class="docs-about" lang="en">${paragraphs(reference.about)}</div>
      ${search(query)}
      <p class="sr-only" role="status">${t('docs.found', { count })}</p>
      <nav class="docs-tags" aria-label=${t('docs.sections')}>
        ${tags.map(({ name }) => html`<a class="chip" href=${`#${name}`}>${name}</a>`)}
        <a class="chip" href="#errors">${t('docs.all_errors')}</a>
      </nav>
      ${count ? null : emptyState('search', t('docs.none.title'), t('docs.none.text'))}
      <div class="stack">${each(tags, ({ name }) => name, section)} ${errors()}</div>`;
  }

  const section = ({ name, text, operations }) => html`
    <section class="docs-section" aria-labelledby=${name}>
      <h2 id=${name} tabindex="-1" lang="en">${name}</h2>
      <p class="soft" lang="en">${inlineMarkup(text)}</p>
      <div class="docs-operations">${each(
        operations,
        ({ id }) => id,
        (one) => operationView(one, ui),
      )}</div>
    </section>`;

  const errors = () => html`
    <section class="docs-section" aria-labelledby="errors">
      <h2 id="errors" tabindex="-1">${t('docs.all_errors')}</h2>
      <p class="soft">${t('docs.all_errors.text')}</p>
      ${dataTable({
        labelledBy: 'errors',
        rows: reference.codes,
        key: ({ code }) => code,
        columns: [
          { title: t('docs.column.code'), cell: ({ code }) => html`<code>${code}</code>` },
          { title: t('docs.column.status'), cell: ({ status }) => status },
          {
            title: t('docs.column.meaning'),
            cell: ({ text }) => html`<span lang="en">${inlineMarkup(text)}</span>`,
          },
        ],
      })}
    </section>`;

  load();
  return {
    update: showLinked,
    view: (_state, { query }) => html`
      <div class="page docs">
        <div class="page-head">
          <h1 tabindex="-1">${t('docs.title')}</h1>
          <p class="docs-source">
            ${reference ? html`<span>${t('docs.version', { version: reference.version })}</span>` : null}
            <a href=${SOURCE} target="_blank">${t('docs.source')}</a>
          </p>
        </div>
        ${
          reference
            ? memo([reference, query.q, revision, locale()], () => content(query))
            : loadError
              ? alertBox(
                  errorMessage(loadError),
                  html`<button type="button" class="button small" @click=${load}>
                    ${t('common.try_again')}
                  </button>`,
                )
              : skeletons(4)
        }
      </div>`,
  };
}
