"""From the facts of a model's files to the shape that `decide.memory` reckons with."""

from __future__ import annotations

from collections.abc import Sequence

from llb.gguf.header import GgufError
from llb.gguf.metadata import GgufMetadata
from llb.policy.memory import Layer, ModelShape


def build_model_shape(files: Sequence[GgufMetadata]) -> ModelShape:
    """The shape of one model from all its files (shards, a projector). Raises `GgufError` if they are not a model."""
    shards = [facts for facts in files if not facts.is_projector]
    head = next((facts for facts in shards if facts.layers), None)
    if head is None or not head.embedding_length:
        raise GgufError("its header does not describe a language model")
    blocks = [
        [facts.blocks[index] for facts in shards if index in facts.blocks] for index in range(head.layers)
    ]
    keeps_kv = head.layers - min(head.shared_kv_layers, head.layers)
    layers = []
    for index, parts in enumerate(blocks):
        # A block without a trace of either (a foreign naming) is taken for attention: rather too much than too little.
        recurrent = any(part.recurrent for part in parts)
        attends = any(part.attention for part in parts) or not recurrent
        heads = head.kv_heads[index] if attends and index < keeps_kv else 0
        windowed = head.windowed[index]
        layers.append(
            Layer(
                weight_bytes=sum(part.size_bytes for part in parts),
                key_width=heads * (head.key_length_windowed if windowed else head.key_length),
                value_width=heads * (head.value_length_windowed if windowed else head.value_length),
                uses_sliding_window=windowed,
                state_bytes=head.state_bytes if recurrent else 0,
            )
        )
    weights = sum(facts.tensor_bytes for facts in shards)
    return ModelShape(
        layers=tuple(layers),
        input_bytes=sum(facts.input_bytes for facts in shards),
        output_bytes=sum(facts.output_bytes for facts in shards),
        other_bytes=sum(facts.other_bytes + facts.data_start for facts in shards),
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
        has_repacked_weights=sum(facts.repacked_bytes for facts in shards) * 20 > weights,
        projector_bytes=sum(facts.data_end for facts in files if facts.is_projector),
    )
