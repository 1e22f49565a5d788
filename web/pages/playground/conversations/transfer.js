/** Export of conversations as Markdown and JSON, and the import of the latter. Pure. */

import { pathTo } from './message-tree.js';
import { titleOf } from './conversation.js';

const FORMAT = 'llb-conversations';

/** JSON document of conversations as the server gave them. */
export const asJson = (conversations) =>
  `${JSON.stringify(
    { format: FORMAT, version: 1, conversations: conversations.map(({ running, ...kept }) => kept) },
    null,
    2,
  )}\n`;

/** The version that is shown, as Markdown. `names`: {user, assistant}, the headings of the messages. */
export function asMarkdown(conversation, names) {
  const { system } = conversation.settings;
  const parts = [`# ${titleOf(conversation)}`, ...(system ? [quote(system)] : [])];
  for (const message of pathTo(conversation.messages, conversation.leaf_id)) {
    const model = message.model ? ` (${message.model})` : '';
    parts.push(`## ${names[message.role]}${model}`);
    for (const { name, text } of message.files ?? []) parts.push(`**${name}**`, fenced(text));
    for (const url of message.images ?? []) parts.push(`![](${url})`);
    if (message.text) parts.push(message.text);
  }
  return `${parts.join('\n\n')}\n`;
}

const quote = (text) => text.replace(/^/gm, '> ');

/** Code block whose fence is longer than any in `text`. */
export function fenced(text, language = '') {
  const longest = Math.max(2, ...(text.match(/`{3,}/g) ?? []).map((run) => run.length));
  const fence = '`'.repeat(longest + 1);
  return `${fence}${language}\n${text.replace(/\n$/, '')}\n${fence}`;
}

/** Name for a file of a conversation. */
export const fileName = (conversation, extension) => {
  const title = titleOf(conversation)
    .replace(/[^\p{L}\p{N}]+/gu, '-')
    .replace(/^-+|-+$/g, '');
  return `${title || 'conversation'}.${extension}`;
};

/** Conversations of an exported document; throws for any other text. */
export function fromJson(text) {
  const document = JSON.parse(text);
  if (document?.format !== FORMAT || !Array.isArray(document.conversations)) throw new Error('format');
  return document.conversations;
}

// Below the limits of an import.
const STEP_BYTES = 12 * 2**20;
const STEP_CONVERSATIONS = 500;
const STEP_MESSAGES = 20_000;

/**
 * Parts of `conversations` for one import each. A large conversation is in several, whose messages add up.
 */
export function importSteps(conversations, stepBytes = STEP_BYTES) {
  const sizeOf = (value) => new Blob([JSON.stringify(value)]).size;
  const steps = [];
  let step = null;
  let bytes = 0;
  let messageCount = 0;
  const begin = () => {
    step = [];
    steps.push(step);
    bytes = messageCount = 0;
  };
  const add = (conversation, size) => {
    if (step.length && (bytes + size > stepBytes || step.length === STEP_CONVERSATIONS)) begin();
    step.push({ ...conversation, messages: [] });
    bytes += size;
  };
  begin();
  for (const conversation of conversations) {
    const { messages, ...head } = conversation ?? {};
    // The server reports the error.
    if (!Array.isArray(messages)) {
      add(head, sizeOf(head));
      step[step.length - 1] = conversation;
      continue;
    }
    const headSize = sizeOf(head);
    add(head, headSize);
    for (const message of messages) {
      const size = sizeOf(message) + 1;
      const isAlone = bytes <= headSize;
      if ((bytes + size > stepBytes && !isAlone) || messageCount === STEP_MESSAGES) {
        begin();
        add(head, headSize);
      }
      step.at(-1).messages.push(message);
      bytes += size;
      messageCount += 1;
    }
  }
  return steps;
}
