/** pages/playground/composer/attachments.js. */

import { attachFile, decodeText } from '/web/pages/playground/composer/attachments.js';
import { equal, test } from './runner.js';

const bytes = (...values) => new Uint8Array(values);
const draft = () => ({ images: [], files: [] });

test('text is UTF-8 or UTF-16', () => {
  equal(decodeText(new TextEncoder().encode('日本')), '日本');
  equal(decodeText(bytes(0xff, 0xfe, 0x61, 0)), 'a');
  equal(decodeText(bytes(0xfe, 0xff, 0, 0x61)), 'a');
  equal(decodeText(bytes(0xef, 0xbb, 0xbf, 0x61)), 'a');
  equal(decodeText(bytes(0x80)), null);
  equal(decodeText(bytes(0x61, 0)), null);
});

test('text files are attached, by their type or their name', async () => {
  const into = draft();
  equal(await attachFile(into, new File(['a'], 'a.txt', { type: 'text/plain' }), false), null);
  equal(await attachFile(into, new File(['b'], 'Makefile'), false), null);
  equal(await attachFile(into, new File(['c'], 'c.py'), false), null);
  equal(
    into.files.map(({ name, text }) => [name, text]),
    [
      ['a.txt', 'a'],
      ['Makefile', 'b'],
      ['c.py', 'c'],
    ],
  );
});

test('what cannot be attached is refused with a reason', async () => {
  const refused = async (file, sees = false) => (await attachFile(draft(), file, sees))[0];
  equal(await refused(new File(['x'], 'a.pdf', { type: 'application/pdf' })), 'playground.file_refused');
  equal(await refused(new File([bytes(0x80)], 'a.txt')), 'playground.file_refused');
  equal(await refused(new File(['x'.repeat(1_000_001)], 'a.txt')), 'playground.file_refused');
  equal(await refused(new File(['x'], 'a.png', { type: 'image/png' })), 'playground.images_unseen');
  equal(await refused(new File(['x'], 'a.png', { type: 'image/png' }), true), 'playground.image_refused');
  const full = { images: [], files: Array(8).fill({}) };
  equal((await attachFile(full, new File(['x'], 'a.txt'), false))[0], 'playground.files_enough');
});
