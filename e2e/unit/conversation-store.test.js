/** pages/playground/conversation-store.js: separate per user, and robust when storage is full. */

import {
  createConversationStore,
  newConversation,
  titleOf,
} from '/web/pages/playground/conversation-store.js';
import { equal, ok, test } from './runner.js';

/** Storage with room for `room` characters. */
class FakeStorage {
  known = new Map();

  constructor(room = Infinity) {
    this.room = room;
  }

  get length() {
    return this.known.size;
  }

  key = (at) => [...this.known.keys()][at] ?? null;
  getItem = (key) => this.known.get(key) ?? null;
  removeItem = (key) => this.known.delete(key);

  setItem(key, value) {
    const others = [...this.known].filter(([name]) => name !== key);
    if (others.reduce((sum, [, text]) => sum + text.length, value.length) > this.room)
      throw new DOMException('full', 'QuotaExceededError');
    this.known.set(key, value);
  }
}

const IMAGE = `data:image/png;base64,${'A'.repeat(2000)}`;
const said = (updated, text = 'hi', images) => ({
  ...newConversation(updated),
  messages: [{ role: 'user', text, ...(images ? { images } : {}) }],
});

test('what is saved is found again, newest first, and can be removed', () => {
  const kept = createConversationStore('me', new FakeStorage());
  const [old, young] = [said(1), said(2)];
  ok(kept.save(old) && kept.save(young));
  equal(kept.all(), [young, old]);
  equal(kept.get(old.id), old);
  kept.remove(old.id);
  equal([kept.get(old.id), kept.all().length], [null, 1]);
});

test('people who share a browser do not read each other', () => {
  const storage = new FakeStorage();
  const [ann, bob] = ['ann', 'bob'].map((owner) => createConversationStore(owner, storage));
  const hers = said(1);
  ann.save(hers);
  equal([bob.all(), bob.get(hers.id)], [[], null]);
  equal(
    [...storage.known.keys()].every((key) => key.startsWith('llb.')),
    true,
  );
  const [key] = storage.known.keys();
  equal([ann.owns(key), bob.owns(key), bob.owns(null)], [true, false, true]);
});

test('what another version or hand has written is passed over', () => {
  const storage = new FakeStorage();
  const kept = createConversationStore('me', storage);
  const good = said(1);
  kept.save(good);
  const [key] = storage.known.keys();
  const prefix = key.slice(0, -good.id.length);
  const bad = [
    '{broken',
    'null',
    '[]',
    '7',
    JSON.stringify({ ...good, messages: null }),
    JSON.stringify({ ...good, parameters: null }),
    JSON.stringify({ ...good, messages: [{ role: 'system', text: 'x' }] }),
    JSON.stringify({ ...good, messages: [{ role: 'user' }] }),
    JSON.stringify({
      ...good,
      messages: [{ role: 'user', text: '', images: ['https://evil.example/x.png'] }],
    }),
    JSON.stringify({
      ...good,
      messages: [{ role: 'user', text: '', images: ['data:image/svg+xml;base64,AA'] }],
    }),
  ];
  bad.forEach((text, at) => storage.setItem(`${prefix}bad-${at}`, text.replace(good.id, `bad-${at}`)));
  storage.setItem(`${prefix}other`, JSON.stringify(good));
  equal(kept.all(), [good]);
});

test('where there is no room, images of others go first, then the oldest', () => {
  const storage = new FakeStorage(6000);
  const kept = createConversationStore('me', storage);
  const [first, second] = [said(1, 'first', [IMAGE]), said(2, 'second', [IMAGE])];
  ok(kept.save(first) && kept.save(second));
  const third = said(3, 'x'.repeat(3000));
  ok(kept.save(third));
  equal(kept.get(first.id).messages, [{ role: 'user', text: 'first' }]);
  equal(kept.get(third.id), third);
  ok(kept.save(said(4, 'y'.repeat(5500))));
  equal(
    kept.all().map(({ updated }) => updated),
    [4],
  );
  equal(kept.save(said(5, 'z'.repeat(7000))), false);
});

test('without a storage nothing is kept and nothing fails', () => {
  const kept = createConversationStore('me', null);
  equal([kept.save(said(1)), kept.all(), kept.get('x')], [false, [], null]);
  kept.remove('x');
});

test('ids differ, also within one millisecond', () => {
  equal(new Set(Array.from({ length: 500 }, () => newConversation(1).id)).size, 500);
});

test('a title is the given one, else the first line of the first question, cut between characters', () => {
  const named = (title, ...texts) =>
    titleOf({ title, messages: texts.map((text) => ({ role: 'user', text })) });
  equal(
    [named('Mine', 'x'), named('', ' a\nb'), named(''), named('', '', 'later')],
    ['Mine', 'a', '', 'later'],
  );
  equal(named('', '🙂'.repeat(80)), `${'🙂'.repeat(60)}…`);
});
