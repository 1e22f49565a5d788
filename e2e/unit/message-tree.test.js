/** pages/playground/conversations/message-tree.js. */

import {
  leafAfterMerge,
  mergeMessages,
  newestLeaf,
  pathTo,
  versionsOf,
  withoutMessage,
} from '/web/pages/playground/conversations/message-tree.js';
import { equal, ok, test } from './runner.js';

const message = (id, parentId = null, role = 'user') => ({ id, parent_id: parentId, role });

/** q1 → a1 → q2 → a2, with a second answer to q1 and a second version of q2. */
const TREE = [
  message('q1'),
  message('a1', 'q1', 'assistant'),
  message('q2', 'a1'),
  message('a2', 'q2', 'assistant'),
  message('b1', 'q1', 'assistant'),
  message('r2', 'a1'),
];
const ids = (messages) => messages.map(({ id }) => id);

test('a version is the way from its leaf to the first message', () => {
  equal(ids(pathTo(TREE, 'a2')), ['q1', 'a1', 'q2', 'a2']);
  equal(ids(pathTo(TREE, 'b1')), ['q1', 'b1']);
  equal(pathTo(TREE, null), []);
  equal(pathTo(TREE, 'gone'), []);
});

test('parents in a circle end the way', () => {
  equal(ids(pathTo([message('a', 'b'), message('b', 'a')], 'a')), ['b', 'a']);
  equal(newestLeaf([message('a', 'b'), message('b', 'a')], 'a'), 'a');
});

test('versions have the same parent and the same role', () => {
  equal(ids(versionsOf(TREE, TREE[1])), ['a1', 'b1']);
  equal(ids(versionsOf(TREE, TREE[5])), ['q2', 'r2']);
  equal(ids(versionsOf(TREE, TREE[0])), ['q1']);
});

test('the newest continuation of a message is its leaf', () => {
  equal(newestLeaf(TREE, 'a1'), 'r2');
  equal(newestLeaf(TREE, 'q2'), 'a2');
  equal(newestLeaf(TREE), 'b1');
  equal(newestLeaf([]), null);
});

test('without a message its replies follow its parent', () => {
  const left = withoutMessage(TREE, 'a1');
  equal(ids(left), ['q1', 'q2', 'a2', 'b1', 'r2']);
  equal(ids(pathTo(left, 'a2')), ['q1', 'q2', 'a2']);
});

test('a merge keeps what is generated here and what the server lacks', () => {
  const local = [message('q1'), { ...message('a1', 'q1', 'assistant'), text: 'here' }, message('x')];
  const unsaved = { ...message('q3'), unsaved: true };
  const merged = mergeMessages([...local, unsaved], TREE, (id) => id === 'a1');
  equal(ids(merged), [...ids(TREE), 'q3']);
  ok(merged[1] === local[1], 'the message that is being generated stays the same object');
});

test('after a merge what was added below the shown version is shown', () => {
  equal(leafAfterMerge(TREE, 'q2', 'b1'), 'a2');
  equal(leafAfterMerge(TREE, null, 'b1'), 'b1');
  equal(leafAfterMerge(TREE, 'gone', 'gone'), 'b1');
});
