/** Asking a model and taking its answer, piece by piece, into the last message of a conversation. */

import { ApiError } from '../../core/api.js';
import { explain } from '../../components/feedback.js';
import { streamedBody } from './chat-request.js';
import { figures } from './response-stats.js';

/**
 * `changed(conversation, {ended})` is called after every piece. One answer at a time: `ask` does nothing while one is
 * being written.
 */
export function makeAnswers(app, changed) {
  let running = null; // {controller, conversation}

  async function ask(conversation, model) {
    if (running) return;
    const controller = new AbortController();
    const answer = { role: 'assistant', text: '', thinking: '', model };
    const body = streamedBody(model, conversation);
    conversation.messages.push(answer);
    running = { controller, conversation };
    changed(conversation, { ended: false });
    const began = performance.now();
    const measured = { firstTokenMs: null, totalMs: 0, pieces: 0 };
    const last = {};
    try {
      for await (const chunk of app.api.stream('/v1/chat/completions', body, controller.signal)) {
        take(chunk, answer, last);
        if (chunk.choices?.[0]?.delta?.content || chunk.choices?.[0]?.delta?.reasoning_content) {
          measured.firstTokenMs ??= performance.now() - began;
          measured.pieces += 1;
        }
        changed(conversation, { ended: false });
      }
      answer.ended = last.reason ?? 'interrupted';
    } catch (error) {
      answer.ended = controller.signal.aborted ? 'stopped' : 'interrupted';
      // A connection that breaks while the answer comes is told by the browser's own error.
      if (answer.ended === 'interrupted') answer.error = explain(error instanceof ApiError ? error : new ApiError({}));
    } finally {
      measured.totalMs = performance.now() - began;
      answer.stats = figures(last, measured);
      conversation.updated = Date.now();
      running = null;
      changed(conversation, { ended: true });
    }
  }

  return {
    ask,
    /** Closes the connection, which frees the engine's slot. */
    stop: () => running?.controller.abort(),
    get running() {
      return running?.conversation ?? null;
    },
  };
}

function take(chunk, answer, last) {
  const choice = chunk.choices?.[0];
  answer.text += choice?.delta?.content ?? '';
  answer.thinking += choice?.delta?.reasoning_content ?? '';
  if (choice?.finish_reason) last.reason = choice.finish_reason;
  if (chunk.usage) last.usage = chunk.usage;
  if (chunk.timings) last.timings = chunk.timings;
}
