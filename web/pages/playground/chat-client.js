/** Asking a model and taking its answer, piece by piece, into the last message of a conversation. */

import { ApiError } from '../../core/api.js';
import { errorMessage } from '../../components/feedback.js';
import { streamedBody } from './chat-request.js';
import { responseStats } from './response-stats.js';

/**
 * `changed(conversation, {ended})` is called after every piece. One answer at a time: `ask` does nothing while one is
 * being written.
 */
export function createChatClient(app, onChange) {
  let running = null; // {controller, conversation}

  async function send(conversation, model) {
    if (running) return;
    const controller = new AbortController();
    const answer = { role: 'assistant', text: '', thinking: '', model };
    const body = streamedBody(model, conversation);
    conversation.messages.push(answer);
    running = { controller, conversation };
    onChange(conversation, { ended: false });
    const began = performance.now();
    const timing = { firstTokenMs: null, totalMs: 0, pieces: 0 };
    const ending = {};
    try {
      for await (const chunk of app.api.stream('/v1/chat/completions', body, controller.signal)) {
        appendChunk(chunk, answer, ending);
        if (chunk.choices?.[0]?.delta?.content || chunk.choices?.[0]?.delta?.reasoning_content) {
          timing.firstTokenMs ??= performance.now() - began;
          timing.pieces += 1;
        }
        onChange(conversation, { ended: false });
      }
      answer.ended = ending.reason ?? 'interrupted';
    } catch (error) {
      answer.ended = controller.signal.aborted ? 'stopped' : 'interrupted';
      // A connection that breaks while the answer comes is told by the browser's own error.
      if (answer.ended === 'interrupted') answer.error = errorMessage(error instanceof ApiError ? error : new ApiError({}));
    } finally {
      timing.totalMs = performance.now() - began;
      answer.stats = responseStats(ending, timing);
      conversation.updated = Date.now();
      running = null;
      onChange(conversation, { ended: true });
    }
  }

  return {
    send,
    /** Closes the connection, which frees the engine's slot. */
    stop: () => running?.controller.abort(),
    get running() {
      return running?.conversation ?? null;
    },
  };
}

function appendChunk(chunk, answer, ending) {
  const choice = chunk.choices?.[0];
  answer.text += choice?.delta?.content ?? '';
  answer.thinking += choice?.delta?.reasoning_content ?? '';
  if (choice?.finish_reason) ending.reason = choice.finish_reason;
  if (chunk.usage) ending.usage = chunk.usage;
  if (chunk.timings) ending.timings = chunk.timings;
}
