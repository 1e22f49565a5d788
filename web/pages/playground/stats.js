/** How fast an answer came, from the chunks of its stream and when they did. Pure; times are milliseconds. */

export const startClock = (now) => ({ asked: now, first: null, last: now, pieces: 0, thought: null, usage: null, timings: null });

/** What `chunk` of the stream says: {text, reasoning, reason}, each null where it says nothing of it. */
export function readChunk(chunk) {
  const choice = chunk.choices?.[0];
  return {
    text: choice?.delta?.content || null,
    reasoning: choice?.delta?.reasoning_content || null,
    reason: choice?.finish_reason ?? null,
  };
}

/** The clock after `chunk`, heard at `now`. */
export function heard(clock, chunk, now) {
  const { text, reasoning } = readChunk(chunk);
  const said = text !== null || reasoning !== null;
  return {
    ...clock,
    first: clock.first ?? (said ? now : null),
    last: said ? now : clock.last,
    pieces: clock.pieces + (said ? 1 : 0),
    usage: chunk.usage ?? clock.usage,
    timings: chunk.timings ?? clock.timings,
  };
}

/** The clock when the thinking is over. */
export const thoughtUntil = (clock, now) => ({ ...clock, thought: clock.thought ?? now - (clock.first ?? now) });

/**
 * {tokensPerSecond, firstTokenMs, promptTokens, completionTokens, thoughtMs}; null what nobody knows. An answer that
 * broke off has no counts of the engine's: there a piece of the stream, which is a token, is counted here.
 */
export function statsOf({ asked, first, last, pieces, thought, usage, timings }) {
  const completionTokens = usage?.completion_tokens ?? (pieces || null);
  return {
    tokensPerSecond: positive(timings?.predicted_per_second) ?? positive(((pieces - 1) * 1000) / (last - first)),
    firstTokenMs: first === null ? null : first - asked,
    promptTokens: usage?.prompt_tokens ?? null,
    completionTokens,
    thoughtMs: thought,
  };
}

const positive = (value) => (Number.isFinite(value) && value > 0 ? value : null);
