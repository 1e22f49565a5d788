/** pages/models/groups.js: the groups of the Model Hub, and the first picks. */

import { firstPicks, groupModels, groupOf, isPaused, largestMemory } from '/web/pages/models/groups.js';
import { equal, frozen, test } from './runner.js';
import { model, node } from './samples.js';

const GB = 1e9;

const entry = (id, gigabytes, tags = ['chat'], changes = {}) => {
  const bytes = gigabytes * GB;
  const fit = { verdict: bytes > 20 * GB ? 'too_large' : 'fits', required_bytes: bytes, available_bytes: 20 * GB };
  const item = model(id, { status: 'Available', fit, ...changes });
  return frozen({
    ...item,
    model: { ...item.model, tags, required_memory_bytes: bytes, capabilities: ['TextGeneration'] },
  });
};

const CATALOGUE = frozen([
  entry('tiny', 0.3),
  entry('small', 4),
  entry('coder', 5, ['chat', 'coding']),
  entry('large-coder', 19, ['chat', 'coding']),
  entry('medium', 12),
  entry('thinker', 19.5, ['chat', 'reasoning']),
  entry('large', 18),
  entry('giant', 44),
]);

test('by what a person asks first', () => {
  equal(
    groupModels(CATALOGUE).map(({ name, items }) => [name, items.map((item) => item.model.id)]),
    [
      ['small', ['tiny', 'small']],
      ['medium', ['coder', 'medium']],
      ['large', ['large-coder', 'thinker', 'large']],
      ['too_large', ['giant']],
    ],
  );
  for (const status of ['Registered', 'Downloading', 'Error'])
    equal(groupOf(entry('x', 1, [], { status })), 'downloads', status);
  equal(groupOf(entry('x', 1, [], { status: 'Ready' })), 'cluster');
  equal(groupOf(entry('x', 50, [], { status: 'Ready' })), 'cluster');
  const paused = entry('x', 1, [], { partial: { downloaded_bytes: 1 } });
  equal([isPaused(paused), groupOf(paused)], [true, 'downloads']);
});

test('three picks while nothing is pulled, each another model', () => {
  const ids = (models) => firstPicks(models).map(({ reason, item }) => `${reason} ${item.model.id}`);
  equal(ids(CATALOGUE), ['try tiny', 'best large-coder', 'code coder']);
  equal(ids(CATALOGUE.slice(0, 7)), [], 'a short list');
  equal(ids([...CATALOGUE, entry('here', 1, ['chat'], { status: 'Ready' })]), []);
  equal(ids([...CATALOGUE, entry('kept', 1, ['chat'], { partial: {} })]), []);
  const none = CATALOGUE.map((item) => ({ ...item, fit: { ...item.fit, verdict: 'too_large' } }));
  equal(ids(none), []);
});

test('bars are relative to the largest node that is online', () => {
  equal(largestMemory(null), null);
  const nodes = new Map([
    ['a', node('a', { memory_budget_bytes: 5 })],
    ['b', node('b', { memory_budget_bytes: 9, status: 'offline' })],
  ]);
  equal(largestMemory(nodes), 5);
});
