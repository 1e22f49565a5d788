/**
 * Responsive table. In a narrow container each row becomes a block that names its own columns. Roles are
 * explicit because some browsers drop table semantics when the display type changes.
 */

import { each, html } from '../lib/html.js';

/**
 * `columns`: [{title, cell(row), kind}]; the first column is the row header. `kind` is `number`, `nowrap`, or
 * `actions` (buttons; only screen readers get the title). `labelledBy` is the id of the heading above the
 * table.
 */
export const dataTable = ({ labelledBy, columns, rows, key }) => html`
  <div class="data-table-container"><div class="data-table-scroll">
    <table class="table data-table" role="table" aria-labelledby=${labelledBy}>
      <thead role="rowgroup">
        <tr role="row">
          ${columns.map(
            ({ title, kind = '' }) => html`
              <th scope="col" role="columnheader" class=${kind}><span class=${
                kind === 'actions' ? 'sr-only' : ''
              }>${title}</span></th>`,
          )}
        </tr>
      </thead>
      <tbody role="rowgroup">
        ${each(
          rows,
          key,
          (row) =>
            html`<tr role="row">${columns.map((column, at) => (at ? cell : header)(column, row))}</tr>`,
        )}
      </tbody>
    </table>
  </div></div>`;

const header = (column, row) =>
  html`<th scope="row" role="rowheader" class=${column.kind ?? ''}>${column.cell(row)}</th>`;

const cell = (column, row) => html`
  <td
    role="cell"
    class=${column.kind ?? ''}
    data-title=${column.kind === 'actions' ? null : column.title}
  ><span>${column.cell(row)}</span></td>`;
