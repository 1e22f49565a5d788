"""Model shape: from the metadata of a model's files to the input of `llb.policy.memory`."""

from __future__ import annotations

from collections.abc import Sequence

from llb.gguf.header import GgufError
from llb.gguf.metadata import GgufMetadata
from llb.policy.memory import Layer, ModelShape
from llb.texts.coded_text import CodedText

# llama.cpp switches flash attention off for the first; of the others the keys hold the values (MLA).
_WITHOUT_QUANTIZED_KV_CACHE = frozenset({"grok", "deepseek2", "deepseek4", "minicpm3"})
_QUANTIZATION_BLOCK = 32
# The only ones whose recurrent layers have a KV cache, too (`filter_attn` of `llama_memory_hybrid`): linear
# attention has tensors of the same names, but none.
_ATTENDS_IN_RECURRENT_LAYERS = frozenset({"falcon-h1"})
# Architectures whose heads for multi-token prediction llama.cpp skips without `load_mtp` (`nextn_flags`). The
# heads count as layers for `n_gpu_layers`, but have no weights in memory and no KV cache.
_SKIPS_MTP_LAYERS = frozenset(
    {
        "bailingmoe3", "cohere2moe", "deepseek2", "deepseek32", "deepseek4", "glm-dsa", "glm4moe",
        "glm5-next", "hy_v3", "mimo2", "nemotron_h", "nemotron_h_moe", "qwen3next", "qwen35",
        "qwen35moe", "step35",
    }
)  # fmt: skip

# Architectures whose heads llb has llama.cpp draft with: those of which a synthetic model was tried. Their
# graph takes exactly one head and ends the process for more.
_MTP_ARCHITECTURES = frozenset({"qwen35", "qwen35moe", "glm4moe"})


def build_model_shape(files: Sequence[GgufMetadata]) -> ModelShape:
    """Return the shape of a model from all its files (shards, a projector). Raises `GgufError`."""
    shards = [file for file in files if not file.is_projector]
    head = next((file for file in shards if file.layers), None)
    if head is None or not head.embedding_length:
        raise GgufError(CodedText("gguf_no_language_model", "its header does not describe a language model"))
    blocks = [[file.blocks[index] for file in shards if index in file.blocks] for index in range(head.layers)]
    kv_layer_count = head.layers - min(head.shared_kv_layers, head.layers)
    layers: list[Layer] = []
    mtp_layers: list[Layer] = []
    is_skipping_mtp = head.architecture in _SKIPS_MTP_LAYERS
    trunk_layer_count = head.layers - (head.mtp_layers if is_skipping_mtp else 0)
    for index, parts in enumerate(blocks):
        # A block with unknown tensor names counts as attention: an estimate should rather be too large.
        is_recurrent = any(part.recurrent for part in parts)
        has_attention = not is_recurrent or head.architecture in _ATTENDS_IN_RECURRENT_LAYERS
        heads = head.kv_heads[index] if has_attention and index < kv_layer_count else 0
        is_windowed = head.windowed[index]
        layer = Layer(
            weight_bytes=sum(part.size_bytes for part in parts),
            expert_bytes=sum(part.expert_bytes for part in parts),
            key_width=heads * (head.key_length_windowed if is_windowed else head.key_length),
            value_width=heads * (head.value_length_windowed if is_windowed else head.value_length),
            uses_sliding_window=is_windowed,
            state_bytes=head.state_bytes if is_recurrent else 0,
        )
        if index < trunk_layer_count:
            layers.append(layer)
        else:
            layers.append(Layer(weight_bytes=0))
            mtp_layers.append(layer)
    weight_bytes = sum(file.tensor_bytes for file in shards)
    return ModelShape(
        layers=tuple(layers),
        input_bytes=sum(file.input_bytes for file in shards),
        output_bytes=sum(file.output_bytes for file in shards),
        output_norm_bytes=sum(file.output_norm_bytes for file in shards),
        other_bytes=sum(file.other_bytes + file.data_start for file in shards),
        embedding_length=head.embedding_length,
        query_width=max(head.heads) * head.key_length,
        feed_forward_width=max(
            head.feed_forward_length if not head.experts or head.experts_used == 0 else 0,
            head.experts_used * (head.expert_feed_forward_length or head.feed_forward_length),
        ),
        has_gated_ffn=head.gated,
        experts_used=head.experts_used,
        vocabulary_size=head.vocabulary_size,
        merge_count=head.merges,
        context_length=head.context_length,
        sliding_window=head.sliding_window if any(head.windowed) else 0,
        is_encoder=not head.causal,
        uses_last_token_pooling=head.causal and head.pooling == "last",
        has_quantizable_kv_cache=_has_quantizable_kv_cache(head),
        has_repacked_weights=sum(file.repacked_bytes for file in shards) * 20 > weight_bytes,
        projector_bytes=sum(file.data_end for file in files if file.is_projector),
        mtp_layer=_usable_mtp_layer(head, mtp_layers),
    )


def _usable_mtp_layer(head: GgufMetadata, mtp_layers: Sequence[Layer]) -> Layer | None:
    """Return the head with which the model can draft; a file may declare one and not have its tensors."""
    if head.architecture not in _MTP_ARCHITECTURES or len(mtp_layers) != 1 or not mtp_layers[0].weight_bytes:
        return None
    return mtp_layers[0]


def _has_quantizable_kv_cache(head: GgufMetadata) -> bool:
    """Return whether keys and values of a head are whole blocks, and flash attention can be used."""
    lengths = (head.key_length, head.value_length, head.key_length_windowed, head.value_length_windowed)
    return (
        head.causal
        and head.architecture not in _WITHOUT_QUANTIZED_KV_CACHE
        and all(length % _QUANTIZATION_BLOCK == 0 for length in lengths)
    )
