/** core/i18n.js: texts, placeholders, plurals and choice of language. */

import {
  errorTextOf,
  f,
  fitReason,
  hasText,
  loadLocale,
  locale,
  LOCALES,
  pickLocale,
  problemsOf,
  serverText,
  t,
} from '/web/core/i18n.js';
import { equal, test } from './runner.js';

test('the language that was chosen, else the first of ours that the browser asks for', () => {
  const rows = [
    [null, ['ja-JP', 'en'], 'ja'],
    [null, ['fr', 'de-AT', 'JA'], 'ja'],
    [null, ['en-GB', 'ja'], 'en'],
    [null, ['fr'], 'en'],
    [null, [], 'en'],
    ['ja', ['en'], 'ja'],
    ['en', ['ja'], 'en'],
    ['xx', ['ja'], 'ja'],
    ['', ['ja'], 'ja'],
  ];
  for (const [stored, requested, best] of rows)
    equal(pickLocale(stored, requested), best, `${stored} ${requested}`);
});

test('a name that every object has is no language', () => {
  for (const name of ['constructor', 'toString', '__proto__'])
    equal([pickLocale(name, ['ja']), pickLocale(null, [name])], ['ja', 'en'], name);
});

test('before the words are there a key stands for itself', () => {
  equal([t('nav.models'), hasText('nav.models')], ['nav.models', false]);
});

test('every language can be used, and the document says which', async () => {
  for (const name of Object.keys(LOCALES)) {
    await loadLocale(name);
    equal([locale(), document.documentElement.lang], [name, name]);
    equal(hasText('nav.models'), true);
  }
});

test('placeholders are replaced, hostile values are taken as they are', async () => {
  await loadLocale('en');
  equal(t('toast.ready', { name: 'attic' }), 'attic is ready.');
  for (const name of ['$&', '$1', '{name}', '<b>', '{percent}'])
    equal(t('toast.ready', { name }), `${name} is ready.`);
  equal(t('toast.ready', { name: 0 }), '0 is ready.');
  equal(t('toast.ready'), '{name} is ready.', 'a forgotten value is seen');
  equal(t('toast.ready', { name: null }), '{name} is ready.');
});

test('plurals follow the language', async () => {
  await loadLocale('en');
  equal(
    [1, 2, 0].map((count) => t('model.on_nodes', { count })),
    ['Ready on 1 node', 'Ready on 2 nodes', 'Ready on 0 nodes'],
  );
  await loadLocale('ja');
  equal(
    [1, 2].map((count) => t('model.on_nodes', { count })),
    ['1 台のノードで利用可能', '2 台のノードで利用可能'],
  );
  await loadLocale('en');
  equal(t('model.on_nodes', { count: 1 }), 'Ready on 1 node');
});

test('a key that there is not is seen as it is', async () => {
  await loadLocale('en');
  for (const key of ['no.such.key', 'constructor', 'toString', '__proto__', ''])
    equal([t(key), hasText(key)], [key, false]);
});

test('numbers are in the current language', async () => {
  await loadLocale('en');
  equal(
    [f.compact(50_000), f.duration(4800), f.percent(0.455), f.rate(1500)],
    ['50K', '1 hr 20 min', '45%', '1.5 kB/s'],
  );
  equal(
    [f.bytes(1500), f.number(1.25, 1), f.tokens(4096), f.milliseconds(1200)],
    ['1.5 kB', '1.3', '4K', '1.2 s'],
  );
  equal(f.ago(Date.now() / 1000 - 7200), '2 hours ago');
  await loadLocale('ja');
  equal([f.compact(50_000), f.duration(4800)], ['5万', '1 時間 20 分']);
  equal([f.dateTime(0), f.timeOfDay(0)], ['1970/01/01 0:00', '0:00:00']);
});

test('a sentence of the server is translated by its code', async () => {
  const error = 'waiting for the network: the Hub cannot be reached: it did not answer in time';
  const cause = { who: { code: 'hub', values: {} }, cause: { code: 'network_timeout', values: {} } };
  const error_code = {
    code: 'waiting_for_network',
    values: { cause: { code: 'hub_unreachable', values: cause } },
  };
  await loadLocale('en');
  equal(errorTextOf({ error, error_code }), error);
  await loadLocale('ja');
  equal(
    errorTextOf({ error, error_code }),
    'ネットワークを待っています：Hub に接続できません（時間内に応答がありませんでした）',
  );
  equal(serverText('x', { code: 'hub_no_file', values: { repo: 'a/b', file: '{repo}' } }),
    'リポジトリ a/b にファイル {repo} がありません');
});

test('a sentence that is not known stays as the server wrote it', async () => {
  await loadLocale('ja');
  const unknown = { code: 'of_a_later_version', values: {} };
  equal(serverText('It broke', unknown), 'It broke');
  equal(serverText('It broke', undefined), 'It broke', 'an earlier version');
  equal(serverText('It broke: x', { code: 'hub_unreachable', values: { who: unknown, cause: 'x' } }), 'It broke: x');
  equal(problemsOf({ problems: ['a', 'b'] }), ['a', 'b']);
  equal(problemsOf({ problems: ['a', 'b'], problem_codes: [null, { code: 'disk_read_only', values: {} }] }), [
    'a',
    'ディスクが読み取り専用です',
  ]);
  equal(fitReason({ reason: 'x', reason_codes: [unknown] }), 'x');
  equal(fitReason({ reason: null }), null);
  await loadLocale('en');
});
