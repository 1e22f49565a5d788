/** pages/models/groups.js: the order of the Local tab. */

import { diskBytes, sortLocal } from '/web/pages/models/groups.js';
import { equal, test } from './runner.js';

const item = (name, ...replicas) => ({ name, replicas });
const replica = (size, used = null, state = 'ready') => ({ state, size_bytes: size, last_used: used });
const items = [
  item('small', replica(1, 50)),
  item('everywhere', replica(4), replica(4, 90)),
  item('never', replica(5), replica(9, null, 'downloading')),
];
const order = (name) => sortLocal(items, name).map((each) => each.name);

test('a model takes disk on each node that has it', () => {
  equal(items.map(diskBytes), [1, 8, 5]);
});

test('the largest first, or those that were not used for longest', () => {
  equal(order('size'), ['everywhere', 'never', 'small']);
  equal(order('used'), ['never', 'small', 'everywhere']);
  for (const name of [undefined, '', 'toString']) equal(order(name), ['small', 'everywhere', 'never']);
});
