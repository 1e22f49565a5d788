"""Parameters that every engine gets; the estimates of memory are valid for these only. Pure."""

from __future__ import annotations

from llb.policy.memory.model_shape import F32_BYTES, MIB, ModelShape

# For engines with layers on a GPU, which needs large batches, and for embeddings.
UBATCH_TOKENS = 512
# For text generation on the CPU. Only between batches does llama.cpp notice that a client is gone, and
# compute the next token of other slots, so a batch is one ubatch. `bench.prefill` measures the cost of
# smaller ones.
CPU_UBATCH_TOKENS = 128
# Copies of windowed and recurrent state that a slot keeps for going back (`n_ctx_checkpoints`).
MAX_CONTEXT_CHECKPOINTS = 2
# Tokens that a draft model, or a head for multi-token prediction, proposes at once: the default of llama.cpp.
DRAFT_TOKENS = 3
# Tokens that are drafted at once from n-grams: from 8 tokens on K-quants have other kernels, which change
# more answers (docs/performance.md).
NGRAM_DRAFT_TOKENS = 7
PROMPT_CACHE_LIMIT_BYTES = 512 * MIB

# The last build of llama.cpp that is known to have no graph input of tokens and embeddings mixed in one batch
# (`llm_arch_supports_mixed_batch`); 11549 has it.
LAST_BUILD_WITHOUT_MIXED_INPUTS = 10_434

# Tokens per slot.
DEFAULT_CONTEXT = 8192
DEFAULT_POOLED_CONTEXT = 2048
# The default context of a pooled engine shrinks until its outputs fit into this.
POOLED_OUTPUT_LIMIT_BYTES = 1024 * MIB
MIN_CONTEXT = 512
# llama.cpp rounds the cells of a KV cache up to a multiple of this (`GGML_PAD(n_ctx, 256)`).
CONTEXT_ALIGNMENT = 256


def pad_context(context_length: int) -> int:
    """Return the number of cells that llama.cpp allocates for `context_length` tokens."""
    return -(-context_length // CONTEXT_ALIGNMENT) * CONTEXT_ALIGNMENT


def count_context_checkpoints(context_length: int, *, ubatch: int, pooled: bool) -> int:
    """Return the checkpoints per slot; llama.cpp makes one before each of the last ubatches of a prompt."""
    return 0 if pooled else min(MAX_CONTEXT_CHECKPOINTS, -(-context_length // ubatch))


def max_pooled_context(shape: ModelShape) -> int:
    """Return the default context of a pooled engine whose outputs stay within their limit."""
    rows = POOLED_OUTPUT_LIMIT_BYTES // (F32_BYTES * max(1, shape.vocabulary_size))
    return max(MIN_CONTEXT, min(DEFAULT_POOLED_CONTEXT, rows // CONTEXT_ALIGNMENT * CONTEXT_ALIGNMENT))


def choose_ubatch_tokens(
    shape: ModelShape, *, context_length: int, slots: int, is_offloaded: bool, pooled: bool
) -> int:
    """Return the tokens per ubatch; a pooled input that cannot be split must fit into one
    (`slot.can_split()`).
    """
    if pooled and not shape.uses_last_token_pooling:
        return pad_context(context_length)
    limit = UBATCH_TOKENS if is_offloaded or pooled else CPU_UBATCH_TOKENS
    return min(limit, pad_context(context_length) * slots)


def mixed_input_rows(llama_build: int | None) -> int:
    """Return the rows of the embedding length for a graph's mixed input; an unknown build counts as new."""
    return 0 if llama_build is not None and llama_build <= LAST_BUILD_WITHOUT_MIXED_INPUTS else 2
