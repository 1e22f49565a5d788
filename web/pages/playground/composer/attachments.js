/** Attachments of a question: images for models that see, and text files for any model. */

import { ImageRefused, MAX_IMAGES, toDataUrl } from './images.js';

// In bytes.
const MAX_TEXT_BYTES = 1_000_000;
export const MAX_FILES = 8;
const ENDINGS =
  `txt md markdown rst csv tsv json jsonl yaml yml toml ini cfg conf log xml html htm css js mjs ts
  tsx jsx py rb rs go java kt kts c h cc cpp hpp cs swift sh bash zsh ps1 sql r lua php pl diff patch tex
  dockerfile makefile gitignore env vue svelte scala dart ex exs erl hs clj m mm`.split(/\s+/);

/** For the file chooser. */
export const ACCEPT_TEXT = ['text/*', 'application/json', ...ENDINGS.map((ending) => `.${ending}`)].join(',');

const endingOf = (name) => name.toLowerCase().split(/[./]/).at(-1);

/**
 * Adds a file to the draft {images, files}. Resolves to null, or to [key, values] of the text that says why
 * it was refused.
 */
export async function attachFile(draft, file, supportsImages) {
  if (file.type.startsWith('image/') && file.type !== 'image/svg+xml')
    return supportsImages ? attachImage(draft, file) : ['playground.images_unseen', {}];
  return attachText(draft, file);
}

async function attachImage(draft, file) {
  if (draft.images.length === MAX_IMAGES) return ['playground.images_enough', { count: MAX_IMAGES }];
  try {
    draft.images.push(await toDataUrl(file));
    return null;
  } catch (error) {
    if (!(error instanceof ImageRefused)) throw error;
    return ['playground.image_refused', { name: error.message }];
  }
}

async function attachText(draft, file) {
  const refused = ['playground.file_refused', { name: file.name }];
  if (draft.files.length === MAX_FILES) return ['playground.files_enough', { count: MAX_FILES }];
  if (file.size > MAX_TEXT_BYTES) return refused;
  if (
    !file.type.startsWith('text/') &&
    file.type !== 'application/json' &&
    !ENDINGS.includes(endingOf(file.name))
  )
    return refused;
  const text = decodeText(new Uint8Array(await file.arrayBuffer()));
  if (text === null) return refused;
  draft.files.push({ name: file.name.slice(-255), text });
  return null;
}

/** Text in UTF-8 or UTF-16; null for anything else. */
export function decodeText(bytes) {
  const encoding =
    bytes[0] === 0xff && bytes[1] === 0xfe
      ? 'utf-16le'
      : bytes[0] === 0xfe && bytes[1] === 0xff
        ? 'utf-16be'
        : 'utf-8';
  try {
    const text = new TextDecoder(encoding, { fatal: true }).decode(bytes);
    return text.includes('\0') ? null : text;
  } catch {
    return null;
  }
}
