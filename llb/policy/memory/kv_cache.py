"""KV cache: bytes of keys, values and recurrent state, and of the copies that slots keep. Pure."""

from __future__ import annotations

from functools import partial

from llb.policy.memory.engine_parameters import pad_context
from llb.policy.memory.model_shape import Layer, ModelShape
from llb.wire import KvCacheType


def kv_cache_bytes(
    shape: ModelShape,
    layers: tuple[Layer, ...],
    *,
    cells: int,
    ubatch: int,
    slots: int,
    cache_type: KvCacheType,
) -> int:
    """Return the KV cache and recurrent state of `layers`, one stream per slot (`kv_unified` off).

    A windowed layer keeps `GGML_PAD(min(n_ctx, n_swa + n_ubatch), 256)` cells (llama_kv_cache_iswa).
    """
    windowed = min(cells, pad_context(shape.sliding_window + ubatch)) if shape.sliding_window else cells
    each = sum(
        layer.kv_cell_bytes(cache_type) * (windowed if layer.uses_sliding_window else cells)
        + layer.state_bytes
        for layer in layers
    )
    return each * slots


def layer_kv_bytes(
    shape: ModelShape,
    layer: Layer,
    *,
    context_length: int,
    ubatch: int,
    slots: int,
    cache_type: KvCacheType,
) -> int:
    """Return the KV cache of one layer."""
    cells = 0 if shape.is_encoder else pad_context(context_length)
    return kv_cache_bytes(shape, (layer,), cells=cells, ubatch=ubatch, slots=slots, cache_type=cache_type)


def converted_kv_bytes(
    shape: ModelShape,
    layers: tuple[Layer, ...],
    *,
    context_length: int,
    ubatch: int,
    slots: int,
    cache_type: KvCacheType,
) -> int:
    """Return the copy in f16 of the largest quantized KV cache of a layer, which CUDA makes for prompts."""
    if cache_type is KvCacheType.F16:
        return 0
    in_f16 = partial(
        layer_kv_bytes,
        context_length=context_length,
        ubatch=ubatch,
        slots=slots,
        cache_type=KvCacheType.F16,
    )
    return max((in_f16(shape, layer) for layer in layers), default=0)


def checkpoint_bytes(shape: ModelShape, *, cells: int, cache_type: KvCacheType) -> int:
    """Return the size of one checkpoint of a slot: windows of the windowed layers, and recurrent state."""
    window = min(cells, shape.sliding_window)
    return sum(
        (layer.kv_cell_bytes(cache_type) * window if layer.uses_sliding_window else 0) + layer.state_bytes
        for layer in shape.layers
    )
