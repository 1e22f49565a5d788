/** pages/playground/messages/markdown-blocks.js. */

import { splitBlocks, splitThinking } from '/web/pages/playground/messages/markdown-blocks.js';
import { equal, test } from './runner.js';

test('blocks end at a blank line', () => {
  equal(splitBlocks(''), []);
  equal(splitBlocks('\n\n'), []);
  equal(splitBlocks('one'), ['one']);
  equal(
    splitBlocks('one\ntwo\n\nthree').map((each) => each.trimEnd()),
    ['one\ntwo', 'three'],
  );
});

test('a fence stays whole, also an open one and one of the other kind inside', () => {
  for (const whole of [
    '```js\na\n\nb\n```',
    '~~~\n```\n\nx\n~~~',
    '````\n```\n\n```\n````',
    '```\nopen\n\nstill open',
  ])
    equal(splitBlocks(whole), [whole]);
  equal(
    splitBlocks('```\na\n```\n\nafter').map((each) => each.trimEnd()),
    ['```\na\n```', 'after'],
  );
});

test('a list with blank lines stays one list', () => {
  for (const whole of ['- a\n\n- b', '1. a\n\n2. b', '- a\n\n  more of a'])
    equal(splitBlocks(whole), [whole]);
  equal(splitBlocks('- a\n\nno item').length, 2);
});

test('nothing is lost, and what is finished does not change while the rest arrives', () => {
  const text = '# Head\n\ntext\nmore\n\n- a\n\n- b\n\n```py\nx\n\ny\n```\n\n| a |\n| - |\n\n  end\n';
  equal(splitBlocks(text).join('\n').replace(/\s/g, ''), text.replace(/\s/g, ''));
  let before = [];
  for (let at = 0; at <= text.length; at += 1) {
    const now = splitBlocks(text.slice(0, at));
    // The last block may continue; a line that has only begun may turn out to belong to the block before.
    equal(now.slice(0, Math.max(0, before.length - 2)), before.slice(0, -2), `after ${at} characters`);
    before = now;
  }
});

test('thinking is told apart, closed or not yet', () => {
  equal(splitThinking('plain'), { thinking: '', text: 'plain' });
  equal(splitThinking('<think>a</think>\n\nb'), { thinking: 'a', text: 'b' });
  equal(splitThinking(' <think>\nstill'), { thinking: 'still', text: '' });
  equal(splitThinking('b <think>a</think>'), { thinking: '', text: 'b <think>a</think>' });
});
