/** pages/models/filter.js: filtering and sorting. */

import { filterOptions, FILTERS, createMatcher, SORT_ORDERS, sortModels } from '/web/pages/models/filter.js';
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

const shown = (query) => LIST.filter(createMatcher(query)).map((item) => item.model.id);

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
  equal(ids('downloads'), ['whisper', 'qwen', 'llava'], 'a model without figures comes last');
  const none = entry('none', { hf_stats: { downloads: 0, stars: 0 } });
  equal(
    sortModels([entry('unknown'), none], 'downloads').map((item) => item.model.id),
    ['none', 'unknown'],
  );
  equal(ids('name'), ['llava', 'qwen', 'whisper']);
  for (const order of [undefined, null, '', 'nonsense', 'constructor'])
    ok(sortModels(LIST, order) === LIST, String(order));
  equal(SORT_ORDERS, ['', 'size', 'downloads', 'name']);
});

test('an order keeps equals as they were', () => {
  const list = ['c', 'a', 'b'].map((id) => entry(id));
  equal(
    sortModels(list, 'size').map((item) => item.model.id),
    ['c', 'a', 'b'],
  );
});

test('choices are what occurs, the most frequent first', () => {
  equal(filterOptions(LIST), {
    capability: ['TextGeneration', 'ImageUnderstanding', 'SpeechToText'],
    tag: ['chat', 'small', 'vision'],
    status: ['Ready', 'Available', 'Error'],
    fit: ['fits', 'too_large'],
  });
  equal(filterOptions([]), { capability: [], tag: [], status: [], fit: [] });
});
