/** Minimal markup of the reference: paragraphs, `code`, **strong**. */

import { html } from '../../lib/html.js';

const PIECE = /(`[^`]+`|\*\*[^*]+\*\*)/;

/** One paragraph. */
export const inlineMarkup = (text) =>
  text.split(PIECE).map((piece) => {
    if (piece.startsWith('`')) return html`<code>${piece.slice(1, -1)}</code>`;
    return piece.startsWith('**')
      ? html`<strong>${piece.slice(2, -2)}</strong>`
      : html`<span>${piece}</span>`;
  });

/** All paragraphs. */
export const paragraphs = (text) => text.split('\n\n').map((each) => html`<p>${inlineMarkup(each)}</p>`);
