/** Chat client: sends a conversation and appends the streamed tokens to its last message. */

import { ApiError } from '../../core/api.js';
import { errorMessage } from '../../components/feedback.js';
import { streamedBody } from './chat-request.js';
import { responseStats } from './response-stats.js';

/**
 * `onChange(conversation, {ended})` is called after every chunk. `send` does nothing while another response
 * is being generated.
 */
export function createChatClient(app, onChange) {
  // {controller, conversation}
  let running = null;

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
      // If the connection breaks during a response, the browser throws an error of its own.
      if (answer.ended === 'interrupted')
        answer.error = errorMessage(error instanceof ApiError ? error : new ApiError({}));
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
