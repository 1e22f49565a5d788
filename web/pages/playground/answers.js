/** Answers that are being generated: this page follows those of the open conversation. */

import { ApiError } from '../../core/api.js';

// Between attempts to resume an answer whose connection broke.
const RETRY_DELAYS_MS = [500, 1000, 2000];

/**
 * `onChange(message, {ended, begun})` is called after every change of a message, which is changed in place;
 * `begun`: the server has saved its question. An answer that is no longer followed continues.
 */
export function createAnswers(client, onChange) {
  // Answer id → {message, controller}
  const followed = new Map();

  async function run(conversationId, message, open) {
    const controller = new AbortController();
    followed.set(message.id, { message, controller });
    message.isRunning = true;
    const isAborted = () => controller.signal.aborted;
    try {
      await consume(message, open(controller.signal));
    } catch (error) {
      if (!isAborted()) await recover(conversationId, message, error, controller.signal);
    } finally {
      // One that was left may be followed again meanwhile.
      if (followed.get(message.id)?.controller === controller) followed.delete(message.id);
      if (!isAborted()) message.isRunning = false;
      onChange(message, { ended: !isAborted() });
    }
  }

  async function consume(message, events) {
    for await (const event of events) {
      if (event.message) {
        Object.assign(message, event.message, { live: null, unsaved: false });
        return;
      }
      // The server has saved the question.
      const begun = Boolean(message.unsaved);
      message.unsaved = false;
      message.text += event.text ?? '';
      message.reasoning += event.reasoning ?? '';
      if (event.tokens) message.live = { tokens: event.tokens, elapsedMs: event.elapsed_ms ?? 0 };
      onChange(message, { ended: false, begun });
    }
    throw new ApiError({});
  }

  /** The server refused the request, or the connection broke, in which case the server may have gone on. */
  async function recover(conversationId, message, error, signal) {
    if (error instanceof ApiError && error.code !== 'network') return fail(message, error);
    for (const delay of RETRY_DELAYS_MS) {
      await new Promise((resolve) => setTimeout(resolve, delay));
      if (signal.aborted) return;
      try {
        const { messages, running } = await client.get(conversationId);
        const saved = messages.find(({ id }) => id === message.id);
        if (!saved) return fail(message, error);
        message.unsaved = false;
        if (!running.includes(message.id)) {
          Object.assign(message, saved);
          return;
        }
        Object.assign(message, { text: '', reasoning: '' });
        await consume(message, client.followAnswer(conversationId, message.id, signal));
        return;
      } catch (again) {
        if (signal.aborted) return;
        if (again instanceof ApiError && ![0, 404].includes(again.status)) return fail(message, again);
      }
    }
    fail(message, new ApiError({}));
  }

  function fail(message, error) {
    const { code = 'network', message: text = '', details = {}, retryAfter = null } = error;
    message.ended = 'interrupted';
    message.error = { code, message: text === code ? '' : text, retry_after_s: retryAfter, ...details };
  }

  return {
    /** Asks for an answer; `request` is the body of the API. */
    begin(conversationId, message, request) {
      // The text that is continued comes again.
      Object.assign(message, {
        text: '',
        reasoning: '',
        ended: null,
        error: null,
        stats: null,
        unsaved: true,
      });
      return run(conversationId, message, (signal) => client.beginAnswer(conversationId, request, signal));
    },
    /** Follows an answer that the server is generating. */
    follow(conversationId, message) {
      if (followed.has(message.id)) return;
      Object.assign(message, { text: '', reasoning: '' });
      run(conversationId, message, (signal) => client.followAnswer(conversationId, message.id, signal));
    },
    has: (id) => followed.has(id),
    /** Stops following all answers; the server continues. */
    detach() {
      for (const { controller } of followed.values()) controller.abort();
      followed.clear();
    },
  };
}
