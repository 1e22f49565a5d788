/** Context of a conversation: how many tokens it has, and what to leave out if it has too many. Pure. */

import { textWithFiles } from './chat-request.js';
import { splitThinking } from './messages/markdown-blocks.js';

// Of a message, in addition to its text.
const TURN_TOKENS = 5;
const IMAGE_TOKENS = 600;
const LATIN_CHARS_PER_TOKEN = 3.7;
const OTHER_TOKENS_PER_CHAR = 0.8;
// Kept free for the answer.
const ANSWER_SHARE = 0.25;
const MAX_ANSWER_TOKENS = 1024;

/** Estimate for a text: one token for every 3.7 Latin characters, and 0.8 for any other character. */
export function estimateTokens(text) {
  let others = 0;
  for (let at = 0; at < text.length; at += 1) if (text.charCodeAt(at) > 0x2ff) others += 1;
  return Math.ceil((text.length - others) / LATIN_CHARS_PER_TOKEN + others * OTHER_TOKENS_PER_CHAR);
}

const estimates = new WeakMap();

/** Estimate for a message, as it is sent. */
export function messageTokens(message) {
  const known = estimates.get(message);
  if (known?.text === message.text) return known.tokens;
  const text =
    message.role === 'assistant' ? splitThinking(message.text).text : textWithFiles({ ...message });
  const tokens = TURN_TOKENS + estimateTokens(text) + (message.images?.length ?? 0) * IMAGE_TOKENS;
  estimates.set(message, { text: message.text, tokens });
  return tokens;
}

/**
 * Tokens of a conversation with a draft: what the engine counted for the last answer, and an estimate for
 * what came after it.
 */
export function contextTokens({ system = '' }, messages, draft) {
  const counted = messages.findLastIndex(({ stats }) => stats?.prompt_tokens);
  const begun = counted < 0 ? 0 : exactTokens(messages[counted]);
  const rest = messages.slice(counted + 1).reduce((sum, message) => sum + messageTokens(message), 0);
  const more = draft.text || draft.files.length || draft.images.length ? draftTokens(draft) : 0;
  return begun + rest + more + (counted < 0 && system ? estimateTokens(system) + TURN_TOKENS : 0);
}

/** The engine counts the reasoning too, which is not sent back: then the rest is estimated. */
function exactTokens(message) {
  const { prompt_tokens: prompt, completion_tokens: completion } = message.stats;
  return prompt + (completion && !splitThinking(message.text).thinking ? completion : messageTokens(message));
}

const draftTokens = (draft) =>
  TURN_TOKENS + estimateTokens(textWithFiles(draft)) + draft.images.length * IMAGE_TOKENS;

/**
 * Messages from the first that still fits, beginning with a question; the last one always stays.
 * `scale`: tokens per estimated token, as the engine's refusal showed.
 */
export function dropOldest(settings, messages, contextLength, scale = 1) {
  const free = contextLength - answerReserve(settings, contextLength);
  let tokens = estimateTokens(settings.system ?? '') + TURN_TOKENS;
  let first = messages.length;
  for (let at = messages.length - 1; at >= 0; at -= 1) {
    tokens += messageTokens(messages[at]);
    if (tokens * scale > free && at < messages.length - 1) break;
    if (messages[at].role === 'user') first = at;
  }
  return messages.slice(Math.min(first, messages.length - 1));
}

const answerReserve = ({ parameters = {} }, contextLength) =>
  Math.min(contextLength * ANSWER_SHARE, parameters.max_tokens ?? MAX_ANSWER_TOKENS);

/** Tokens per estimated token of a request that the engine refused as too long. */
export const scaleOf = (settings, messages, promptTokens) =>
  Math.max(
    1,
    promptTokens /
      messages.reduce(
        (sum, message) => sum + messageTokens(message),
        estimateTokens(settings.system ?? '') + 1,
      ),
  );
