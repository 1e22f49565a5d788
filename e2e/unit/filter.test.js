/** pages/models/filter.js: filtering and sorting. */

import {
  createMatcher,
  directionOf,
  filterChips,
  FILTERS,
  nextOrder,
  parseOrder,
  SORT_ORDERS,
  sortModels,
} from '/web/pages/models/filter.js';
import { distanceToPrefix } from '/web/pages/models/search.js';
import { equal, frozen, ok, test } from './runner.js';
import { model } from './samples.js';

const entry = (id, changes = {}, facts = {}) => {
  const item = model(id, changes);
  return frozen({ ...item, model: { ...item.model, ...facts } });
};

const LIST = frozen([
  entry(
    'qwen',
    { status: 'Ready', hf_stats: { downloads: 50, stars: 1 } },
    {
      name: 'Qwen 2.5',
      description: 'A careful multilingual model',
      size_bytes: 300,
      tags: ['small', 'chat'],
      quantization: 'Q8_0',
    },
  ),
  entry(
    'llava',
    { status: 'Available', fit: { verdict: 'too_large' } },
    {
      name: 'LLaVA',
      size_bytes: 900,
      capabilities: ['TextGeneration', 'ImageUnderstanding'],
      tags: ['vision', 'chat'],
    },
  ),
  entry(
    'whisper',
    { status: 'Error', hf_stats: { downloads: 500, stars: 9 } },
    {
      name: 'ウィスパー',
      size_bytes: 100,
      capabilities: ['SpeechToText'],
      parameter_count: '1.5B',
      tags: ['chat'],
    },
  ),
]);

const shown = (query) => LIST.filter(createMatcher(query, LIST)).map((item) => item.model.id);

test('without a query all are shown', () => {
  for (const query of [{}, { q: '' }, { q: '   ' }, { q: undefined, status: '' }])
    equal(shown(query), ['qwen', 'llava', 'whisper']);
});

test('a search looks at id, name, description, repository, tags and numbers; case does not matter', () => {
  for (const [q, found] of [
    ['QWEN', ['qwen']],
    ['multiling', ['qwen']],
    ['test/llava', ['llava']],
    ['vision', ['llava']],
    ['q8_0', ['qwen']],
    ['1.5b', ['whisper']],
    ['ウィス', ['whisper']],
    ['Name of', []],
    ['nothing like it', []],
  ])
    equal(shown({ q }), found, q);
});

test('every word of a search has to be there, in any order', () => {
  equal(shown({ q: ' careful  qwen ' }), ['qwen']);
  equal(shown({ q: 'qwen llava' }), []);
});

test('a search is no pattern', () => {
  for (const q of ['.*', '[', '(', '\\', '$', '^q']) equal(shown({ q }), [], q);
});

test('each filter by itself', () => {
  equal(shown({ capability: 'ImageUnderstanding' }), ['llava']);
  equal(shown({ tag: 'small' }), ['qwen']);
  equal(shown({ status: 'Error' }), ['whisper']);
  equal(shown({ fit: 'too_large' }), ['llava']);
  for (const filter of FILTERS) equal(shown({ [filter]: 'constructor' }), []);
});

test('filters and search together narrow', () => {
  equal(shown({ tag: 'chat', fit: 'fits' }), ['qwen', 'whisper']);
  equal(shown({ tag: 'chat', fit: 'fits', q: 'careful', status: 'Ready' }), ['qwen']);
  equal(shown({ tag: 'chat', capability: 'SpeechToText', status: 'Ready' }), []);
});

test('orders', () => {
  const ids = (order) => sortModels(LIST, order).map((item) => item.model.id);
  equal(ids('size'), ['whisper', 'qwen', 'llava']);
  equal(ids('-size'), ['llava', 'qwen', 'whisper']);
  equal(ids('downloads'), ['whisper', 'qwen', 'llava'], 'a model without figures comes last');
  equal(ids('-downloads'), ['llava', 'qwen', 'whisper']);
  const none = entry('none', { hf_stats: { downloads: 0, stars: 0 } });
  equal(
    sortModels([entry('unknown'), none], 'downloads').map((item) => item.model.id),
    ['none', 'unknown'],
  );
  equal(ids('name'), ['llava', 'qwen', 'whisper']);
  for (const order of [undefined, null, '', '-', 'nonsense', 'constructor', '-constructor'])
    ok(sortModels(LIST, order) === LIST, String(order));
  equal(SORT_ORDERS, ['', 'name', 'size', 'memory', 'context', 'downloads']);
});

test('a heading sorts, reverses, and gives the catalogue back', () => {
  equal(nextOrder('', 'size'), 'size');
  equal(nextOrder('size', 'size'), '-size');
  equal(nextOrder('-size', 'size'), '');
  equal(nextOrder('-size', 'memory'), 'memory');
  equal(nextOrder('constructor', 'memory'), 'memory');
  equal(
    ['size', '-size', 'downloads', '-downloads', '', undefined].map((order) =>
      directionOf(order, parseOrder(order).column),
    ),
    ['ascending', 'descending', 'descending', 'ascending', null, null],
  );
});

test('an order keeps equals as they were', () => {
  const list = ['c', 'a', 'b'].map((id) => entry(id));
  equal(
    sortModels(list, 'size').map((item) => item.model.id),
    ['c', 'a', 'b'],
  );
});

test('filters are offered that some model passes, and those that are set', () => {
  const chips = (query) => filterChips(LIST, query).map(({ name, value, count }) => [name, value, count]);
  equal(chips({}), [
    ['fit', 'fits', 2],
    ['status', 'Ready', 1],
    ['capability', 'TextGeneration', 2],
    ['capability', 'ImageUnderstanding', 1],
  ]);
  equal(chips({ tag: 'chat', capability: 'constructor' }).slice(4), [
    ['capability', 'constructor', 0],
    ['tag', 'chat', 3],
  ]);
  equal(filterChips([], {}), []);
});

test('typos are forgiven where nothing matches as it is written', () => {
  for (const [q, found] of [
    ['qwne', ['qwen']],
    ['mutlilingual', ['qwen']],
    ['multilnigal qwen', ['qwen']],
    ['lava', ['llava']],
    ['whispre', ['whisper']],
    ['qwen3.6', []],
    ['zqwen', []],
    ['code', []],
  ])
    equal(shown({ q }), found, q);
  equal(distanceToPrefix('deepsek', 'deepseek'), 1);
  equal(distanceToPrefix('qwne', 'qwen'), 1);
  equal(distanceToPrefix('abc', 'abcdef'), 0);
  equal(distanceToPrefix('abc', 'xyz', 1), Infinity);
});

test('words that people use find the tags of the catalogue', () => {
  const coder = entry('starling', {}, { tags: ['coding'] });
  equal([...LIST, coder].filter(createMatcher({ q: 'code' }, [...LIST, coder])), [coder]);
});
