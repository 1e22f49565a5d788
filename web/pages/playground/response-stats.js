/** Performance of a response. Pure. */

/**
 * Combines the last chunk's `usage` and llama.cpp's `timings` (either may be missing) with the client's own
 * measurement {firstTokenMs, totalMs, pieces}. The engine's rate takes precedence over the measured one.
 */
export function responseStats({ usage, timings }, { firstTokenMs = null, totalMs, pieces }) {
  const completion = usage?.completion_tokens ?? timings?.predicted_n ?? null;
  const writingS = firstTokenMs === null ? 0 : (totalMs - firstTokenMs) / 1000;
  const measured = pieces > 1 && writingS > 0 ? (pieces - 1) / writingS : null;
  return {
    promptTokens: usage?.prompt_tokens ?? timings?.prompt_n ?? null,
    cachedTokens: usage?.prompt_tokens_details?.cached_tokens ?? timings?.cache_n ?? null,
    completionTokens: completion,
    tokensPerSecond: positive(timings?.predicted_per_second) ?? measured,
    firstTokenMs,
  };
}

// llama.cpp divides by a duration that can be zero for a response of one token.
const positive = (value) => (Number.isFinite(value) && value > 0 && value < 1e6 ? value : null);
