/** One line of a log. */

import { html } from '../../lib/html.js';
import { f } from '../../core/i18n.js';

export const textOf = ({ time, level, source, text, request_id: request }) =>
  `${time} ${level.toUpperCase()} ${source}: ${text}${request ? ` [${request}]` : ''}`;

export const lineView = (line, sourceName) => html`
  <p class="log-line ${line.level}">
    <time datetime=${line.time} title=${line.time}>${f.timeOfDay(Date.parse(line.time) / 1000)}</time>
    <span class="log-level">${line.level}</span>
    <span class="log-source">${sourceName(line.source)}</span>
    <span class="log-text">${line.text}</span>
  </p>`;
