"""Model shape: the properties of a model that determine its memory. Pure."""

from __future__ import annotations

from msgspec import Struct

from llb.wire import KvCacheType

MIB = 2**20
F16_BYTES, F32_BYTES = 2, 4
Q8_0_BLOCK_VALUES, Q8_0_BLOCK_BYTES = 32, 34


def kv_bytes(values: int, cache_type: KvCacheType) -> int:
    """Return the bytes of this many keys or values, whole blocks of them in q8_0."""
    if cache_type is KvCacheType.Q8_0:
        return values // Q8_0_BLOCK_VALUES * Q8_0_BLOCK_BYTES
    return values * F16_BYTES


class Layer(Struct, frozen=True, kw_only=True):
    """One repeating block; widths are values per token in the KV cache (heads × length), or 0."""

    weight_bytes: int
    # Part of these for the matrices of the experts: up, gate and down.
    expert_bytes: int = 0
    key_width: int = 0
    value_width: int = 0
    uses_sliding_window: bool = False
    # Recurrent state per slot (SSM, short convolution).
    state_bytes: int = 0

    def kv_cell_bytes(self, cache_type: KvCacheType) -> int:
        """Return the bytes of one token in the KV cache."""
        return kv_bytes(self.key_width + self.value_width, cache_type)


class ModelShape(Struct, frozen=True, kw_only=True):
    """Properties of a model that determine its memory; `gguf.build_model_shape` makes it from the headers."""

    layers: tuple[Layer, ...]
    # Token embeddings, which stay in RAM with any number of GPU layers.
    input_bytes: int
    # 0: tied to the input matrix, or an encoder, which has none.
    output_bytes: int
    # Norm before the output matrix, and RoPE factors; on the device of the output.
    output_norm_bytes: int = 0
    # Headers and all other content of the files.
    other_bytes: int = 0
    embedding_length: int
    query_width: int
    # Values per token in the widest feed-forward network; for a mixture of experts: used experts × their
    # length.
    feed_forward_width: int
    has_gated_ffn: bool = True
    experts_used: int = 0
    vocabulary_size: int
    merge_count: int = 0
    # Context for which the model was trained.
    context_length: int
    sliding_window: int = 0
    # Attends to all tokens at once, without a KV cache.
    is_encoder: bool = False
    # The vector of the last token is the result, so a long input may be split.
    uses_last_token_pooling: bool = False
    # Keys and values of each head are whole blocks of q8_0, and the architecture has flash attention, which
    # llama.cpp requires for quantized values.
    has_quantizable_kv_cache: bool = False
    # llama.cpp copies some weights into another order for the CPU.
    has_repacked_weights: bool = False
    projector_bytes: int = 0
    # Head for multi-token prediction, which is one of `layers`, too, there without weights: it is loaded only
    # where the model drafts with it.
    mtp_layer: Layer | None = None

    @property
    def weight_bytes(self) -> int:
        """Size of all weights in the files, including the projector."""
        layers = sum(layer.weight_bytes for layer in self.layers)
        output = self.output_norm_bytes + self.output_bytes
        return self.input_bytes + layers + output + self.other_bytes + self.projector_bytes

    @property
    def max_gpu_layers(self) -> int:
        """The `n_gpu_layers` that offloads everything: all layers, and the output as one more."""
        return len(self.layers) + 1
