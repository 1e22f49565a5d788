/** core/live-region.js: announcements for screen readers. */

import { announcements } from '/web/core/live-region.js';
import { equal, test } from './runner.js';
import { model } from './samples.js';

const known = (...list) => new Map(list.map((each) => [each.model.id, each]));
const pulling = (id, progress) => model(id, { status: 'Downloading', download_progress: progress });
const said = (before, after) =>
  announcements(before, after).map(({ key, values }) =>
    [key, values.name, values.percent].filter((part) => part !== undefined).join(' '),
  );

test('nothing at first, and nothing when nothing changed', () => {
  const models = known(model('a'));
  equal(
    [said(null, models), said(models, null), said(models, models), said(known(), models)],
    [[], [], [], []],
  );
  equal(said(models, new Map(models)), []);
});

test('a model that begins, ends or fails', () => {
  for (const status of ['Available', 'Registered', 'Downloading', 'Ready', 'Error']) {
    const before = known(model('a', { status: status === 'Ready' ? 'Error' : 'Ready' }), model('b'));
    equal(said(before, known(model('a', { status }), model('b'))), [`announcement.${status} Name of a`]);
  }
});

test('the end of a pull is told by its notice, not twice', () => {
  for (const was of ['Downloading', 'Registered']) {
    for (const now of ['Ready', 'Error'])
      equal(said(known(model('a', { status: was })), known(model('a', { status: now }))), []);
    equal(
      said(known(model('a', { status: was })), known(model('a'))),
      ['announcement.Cancelled Name of a'],
      'a cancelled one has none',
    );
  }
  equal(said(known(model('a')), known(model('a', { status: 'Ready', pulled: true }))), []);
});

test('a pull is told by quarters, not by every per cent', () => {
  const heard = [];
  let before = known(pulling('a', 0));
  for (let at = 1; at <= 100; at += 1) {
    const after = known(pulling('a', at / 100));
    heard.push(...said(before, after));
    before = after;
  }
  equal(heard, [
    'announcement.progress Name of a 25',
    'announcement.progress Name of a 50',
    'announcement.progress Name of a 75',
  ]);
});

test('a leap over two quarters is told once, with the last of them', () => {
  equal(said(known(pulling('a', 0.1)), known(pulling('a', 0.8))), ['announcement.progress Name of a 75']);
  equal(said(known(pulling('a', null)), known(pulling('a', 0.3))), ['announcement.progress Name of a 25']);
});

test('a beginning is told without its progress', () => {
  equal(said(known(model('a')), known(pulling('a', 0.6))), ['announcement.Downloading Name of a']);
});

test('several models are told in the order of the list', () => {
  equal(
    said(known(pulling('a', 0.2), model('b')), known(pulling('a', 0.3), model('b', { status: 'Error' }))),
    ['announcement.progress Name of a 25', 'announcement.Error Name of b'],
  );
});
