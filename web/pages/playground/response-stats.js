/** How quick an answer was. Pure. */

/**
 * From the last chunk's `usage` and llama.cpp's `timings` (either may be missing), and what was measured here:
 * {firstTokenMs, totalMs, pieces}. The engine's own rate counts where it is told; else that of the pieces that came.
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

// llama.cpp divides by a time that can be zero for an answer of one token.
const positive = (value) => (Number.isFinite(value) && value > 0 && value < 1e6 ? value : null);
