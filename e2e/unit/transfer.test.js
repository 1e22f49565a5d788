/** pages/playground/conversations/transfer.js and browser-storage.js. */

import { convert } from '/web/pages/playground/conversations/browser-storage.js';
import {
  asJson,
  asMarkdown,
  fenced,
  fileName,
  fromJson,
  importSteps,
} from '/web/pages/playground/conversations/transfer.js';
import { equal, ok, test } from './runner.js';

const CONVERSATION = {
  id: 'c1',
  title: 'Cats & dogs',
  settings: { system: 'Be\nbrief.', parameters: {}, stop: '' },
  leaf_id: 'a',
  running: ['a'],
  messages: [
    { id: 'q', parent_id: null, role: 'user', text: 'Hi', files: [{ name: 'a.md', text: '```\nx\n```' }] },
    { id: 'a', parent_id: 'q', role: 'assistant', text: 'Hello', model: 'chat' },
    { id: 'b', parent_id: 'q', role: 'assistant', text: 'Other' },
  ],
};

test('Markdown has the version that is shown', () => {
  equal(
    asMarkdown(CONVERSATION, { user: 'You', assistant: 'Answer' }),
    [
      '# Cats & dogs',
      '> Be\n> brief.',
      '## You',
      '**a.md**',
      '````\n```\nx\n```\n````',
      'Hi',
      '## Answer (chat)',
      'Hello\n',
    ].join('\n\n'),
  );
});

test('JSON comes back as it was, without what is only of the moment', () => {
  const [back] = fromJson(asJson([CONVERSATION]));
  const { running, ...kept } = CONVERSATION;
  equal(back, kept);
});

test('other documents are no export', () => {
  for (const text of ['', '{}', '[]', 'null', '{"format":"other","conversations":[]}']) {
    let refused = false;
    try {
      fromJson(text);
    } catch {
      refused = true;
    }
    ok(refused, text);
  }
});

test('a fence is longer than those in the text', () => {
  equal(fenced('a'), '```\na\n```');
  equal(fenced('````\n'), '`````\n````\n`````');
});

test('file names have letters and digits of any script', () => {
  equal(fileName({ title: ' 猫 / dogs? ' }, 'md'), '猫-dogs.md');
  equal(fileName({ title: '///' }, 'json'), 'conversation.json');
});

test('a list of messages becomes a chain', () => {
  const old = {
    id: 'x-1',
    title: 'T',
    updated: 0,
    system: '',
    stop: '',
    parameters: { temperature: 1, top_p: 'x' },
    messages: [
      { role: 'user', text: 'q' },
      {
        role: 'assistant',
        text: 'a',
        thinking: 't',
        error: 'why',
        ended: 'interrupted',
        stats: { promptTokens: 3, cachedTokens: null, completionTokens: 1, tokensPerSecond: 2, firstTokenMs: 5 },
      },
    ],
  };
  const { messages, leaf_id: leaf, settings } = convert(old);
  equal([messages[1].parent_id, leaf], [messages[0].id, messages[1].id]);
  equal([messages[1].reasoning, messages[1].error.message, messages[1].stats.prompt_tokens], ['t', 'why', 3]);
  equal(settings.parameters, { temperature: 1 });
  equal(convert({ ...old, messages: [] }), null);
  equal(convert(null), null);
});

test('a large import is made in several steps, which add up', () => {
  const messages = (count) =>
    Array.from({ length: count }, (_, at) => ({ id: `m${at}`, role: 'user', text: 'x'.repeat(100) }));
  const conversations = [
    { id: 'c1', messages: messages(2) },
    { id: 'c2', messages: messages(9) },
    { id: 'c3', messages: [] },
    { id: 'c4' },
  ];
  equal(importSteps(conversations), [conversations]);
  const steps = importSteps(conversations, 600);
  ok(steps.length > 2);
  ok(steps.every((step) => JSON.stringify(step).length < 900));
  const merged = new Map();
  for (const { id, messages: some } of steps.flat())
    merged.set(id, [...(merged.get(id) ?? []), ...(some ?? [])]);
  equal(
    [...merged].map(([id, all]) => [id, all.length]),
    [
      ['c1', 2],
      ['c2', 9],
      ['c3', 0],
      ['c4', 0],
    ],
  );
  // A message that is larger than a step is in one of its own.
  equal(importSteps([{ id: 'c1', messages: messages(3) }], 50).length, 3);
});
