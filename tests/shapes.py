"""Models by the numbers on their cards, for what has no file to read: the memory that a catalogue entry says
it needs.
"""

from __future__ import annotations

from msgspec.structs import replace

from llb.policy.memory import MIB, Layer, ModelShape, estimate_memory


def required_memory_bytes(shape: ModelShape, *, context_length: int = 4096, pooled: bool = False) -> int:
    """What a model needs on a host without a GPU for one slot: the catalogue's `required_memory_bytes`."""
    context = min(context_length, shape.context_length)
    return estimate_memory(shape, context_length=context, pooled=pooled).total_bytes


def uniform_shape(
    *,
    size_bytes: int,
    layers: int,
    embedding_length: int,
    heads: int,
    kv_heads: int,
    feed_forward_length: int,
    vocabulary_size: int,
    context_length: int,
    head_length: int | None = None,
    experts_used: int = 0,
    sliding_window: int = 0,
    window_period: int = 0,
    encoder: bool = False,
    projector_bytes: int = 0,
) -> ModelShape:
    """A shape from the numbers of a model card, for a model whose header was not read; all layers alike.

    `size_bytes` is the size of the weights without the projector; of `window_period` layers all but the last
    use the sliding window; `feed_forward_length` is of one expert where there are experts.
    """
    head_length = head_length or embedding_length // heads
    # Which part of the file is the embeddings matters only for what may be offloaded: their share at 8 bits a
    # number.
    input_bytes = min(vocabulary_size * embedding_length, size_bytes // 2)
    each, rest = divmod(size_bytes - input_bytes, layers)
    return ModelShape(
        layers=tuple(
            Layer(
                weight_bytes=each,
                key_width=kv_heads * head_length,
                value_width=kv_heads * head_length,
                uses_sliding_window=window_period > 0 and index % window_period < window_period - 1,
            )
            for index in range(layers)
        ),
        input_bytes=input_bytes,
        output_bytes=0,
        other_bytes=rest,
        embedding_length=embedding_length,
        query_width=heads * head_length,
        feed_forward_width=feed_forward_length * max(1, experts_used),
        has_gated_ffn=not encoder,
        experts_used=experts_used,
        vocabulary_size=vocabulary_size,
        merge_count=vocabulary_size,
        context_length=context_length,
        sliding_window=sliding_window,
        is_encoder=encoder,
        projector_bytes=projector_bytes,
    )


def with_projector(shape: ModelShape, size_bytes: int) -> ModelShape:
    """`shape` with the projector in a file of its own."""
    return replace(shape, projector_bytes=size_bytes)


# Llama 3.1 8B at Q4_K_M: its card, and what llama.cpp logs for it.
LLAMA_8B = uniform_shape(
    size_bytes=4_920_739_232,
    layers=32,
    embedding_length=4096,
    heads=32,
    kv_heads=8,
    feed_forward_length=14336,
    vocabulary_size=128_256,
    context_length=131_072,
)
GEMMA_4B = uniform_shape(
    size_bytes=2_489_757_856,
    layers=34,
    embedding_length=2560,
    heads=8,
    kv_heads=4,
    head_length=256,
    feed_forward_length=10240,
    vocabulary_size=262_144,
    context_length=131_072,
    sliding_window=1024,
    window_period=6,
)
ENCODER = uniform_shape(
    size_bytes=150 * MIB,
    layers=12,
    embedding_length=768,
    heads=12,
    kv_heads=12,
    feed_forward_length=3072,
    vocabulary_size=30_522,
    context_length=2048,
    encoder=True,
)
TINY = ModelShape(
    layers=(Layer(weight_bytes=MIB, key_width=64, value_width=64),) * 4,
    input_bytes=MIB,
    output_bytes=0,
    embedding_length=64,
    query_width=64,
    feed_forward_width=128,
    vocabulary_size=320,
    context_length=32768,
)
