/**
 * Icons: 24 × 24, single stroke, in the colour of the surrounding text. Every icon is accompanied by text.
 */

import { html } from '../lib/html.js';

const PATHS = {
  models: 'M12 3 4 7.2v9.6L12 21l8-4.2V7.2zM4 7.2l8 4.3 8-4.3M12 11.5V21',
  playground:
    'M20 12a7.5 7 0 0 1-7.5 7H6l-2.5 2v-9A7.5 7 0 0 1 11 5h1.5A7.5 7 0 0 1 20 12z' +
    'M8.5 12h.01M12 12h.01M15.5 12h.01',
  nodes: 'M4 5h16v6H4zM4 13h16v6H4zM7.5 8h.01M7.5 16h.01M11 8h5M11 16h5',
  requests: 'M3 12h4l3-7 4 14 3-7h4',
  access: 'M15 9a3 3 0 1 0-.01-.01M15 3a6 6 0 1 1-5.2 9L4 18v3h4v-2h2v-2h2l1-1.4',
  settings: 'M4 7h9M17 7h3M4 17h3M11 17h9M15 4.5v5M9 14.5v5',
  theme: 'M20 14.5A8 8 0 1 1 9.5 4a6.5 6.5 0 0 0 10.5 10.5z',
  check: 'm5 12.5 4.5 4.5L19 7.5',
  close: 'M6 6l12 12M18 6 6 18',
  alert: 'M12 8v5M12 16.5h.01M12 3 2.5 20h19z',
  info: 'M12 11v5M12 7.5h.01M12 3a9 9 0 1 0 .01 0z',
  search: 'M11 4a7 7 0 1 0 .01 0zM16 16l4.5 4.5',
  download: 'M12 4v11M7 10.5l5 5 5-5M5 20h14',
  star: 'm12 4 2.4 5 5.6.7-4.1 3.8 1.1 5.5-5-2.7L7 19l1.1-5.5L4 9.7 9.6 9z',
  copy: 'M9 9h11v11H9zM15 9V4H4v11h5',
  send: 'M12 19V5M6 11l6-6 6 6',
  stop: 'M7 7h10v10H7z',
  plus: 'M12 5v14M5 12h14',
  eye: 'M2.5 12S6 6 12 6s9.5 6 9.5 6-3.5 6-9.5 6-9.5-6-9.5-6zM12 9.5a2.5 2.5 0 1 0 .01 0z',
  code: 'm8.5 7-5 5 5 5M15.5 7l5 5-5 5',
  wrench:
    'M15.5 4a4.5 4.5 0 0 0-4.2 6.1L4.5 17a1.8 1.8 0 0 0 2.5 2.5l6.9-6.8' +
    'A4.5 4.5 0 0 0 19.5 7l-2.6 2.6-2.1-.4-.4-2.1L17 4.4A4.5 4.5 0 0 0 15.5 4z',
  thought: 'M12 3a6 6 0 0 0-3.5 10.9V17h7v-3.1A6 6 0 0 0 12 3zM9.5 20.5h5',
  vector: 'M5 19 18 6M11 6h7v7M5 11v8h8',
  order: 'M4 6h10M4 12h7M4 18h4M17.5 6v12M14.5 15l3 3 3-3',
  bolt: 'M13 3 5 13.5h6L10 21l8-10.5h-6z',
  pause: 'M9 6v12M15 6v12',
  play: 'm8 5 11 7-11 7z',
  up: 'm6 15 6-6 6 6',
  back: 'm14 6-6 6 6 6',
  image: 'M4 5h16v14H4zM8.5 9.5h.01M4 16l5-4 4 3 3-2 4 3.5',
  trash: 'M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13M10 11v5M14 11v5',
  pin: 'M9 4h6l-1 6 3 3H7l3-3zM12 13v7',
  chip: 'M7 7h10v10H7zM10 3v4M14 3v4M10 17v4M14 17v4M3 10h4M3 14h4M17 10h4M17 14h4',
  out: 'M14 4h5v16h-5M10 8l-4 4 4 4M6 12h9',
  refresh: 'M19 12a7 7 0 1 1-2-4.9L19 9M19 4v5h-5',
  external: 'M14 4h6v6M20 4l-9 9M18 14v6H4V6h6',
  down: 'm6 9 6 6 6-6',
  sliders: 'M5 4v9M5 17v3M12 4v3M12 11v9M19 4v11M19 19v1M3 15h4M10 9h4M17 17h4',
  edit: 'M4 20h4L19 9l-4-4L4 16zM13 7l4 4',
  next: 'M5 12h13M13 7l5 5-5 5',
  file: 'M6 3h8l4 4v14H6zM14 3v4h4M9 12h6M9 16h6',
  upload: 'M12 15V4M7 8.5 12 4l5 4.5M5 20h14',
  more: 'M6 12h.01M12 12h.01M18 12h.01',
  columns: 'M4 5h7v14H4zM13 5h7v14h-7z',
  help: 'M9.2 9a2.9 2.9 0 1 1 4.3 2.6c-.9.5-1.5 1.1-1.5 2.2M12 17h.01M12 3a9 9 0 1 0 .01 0z',
  list: 'M9 6h11M9 12h11M9 18h11M4.5 6h.01M4.5 12h.01M4.5 18h.01',
};

/** `name` is a key of PATHS. The icon is hidden from screen readers because text next to it says the same. */
export const icon = (name, className = '') => html`
  <svg class="icon ${className}" viewBox="0 0 24 24" aria-hidden="true" focusable="false">
    <path d=${PATHS[name]}></path>
  </svg>`;

/** Logo: four bars of different height, for many machines behind one address. */
export const logo = () => html`
  <svg class="mark" viewBox="0 0 24 24" aria-hidden="true" focusable="false">
    <rect width="24" height="24" rx="6"></rect>
    <path d="M6.5 6v12M11 10v8M15.5 6v12h3"></path>
  </svg>`;
