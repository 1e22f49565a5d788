"""Shape of a model: layers with their caches and states, shards, heads that are not loaded."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from llb import gguf
from llb.gguf import GgufError
from tests.gguf.headers import LLAMA, header, key_text, key_u32, metadata_of, read, tensor, text
from tests.ggufs import write_chat_model, write_hybrid_model


def test_heads_may_differ_from_layer_to_layer_and_recurrent_ones_keep_a_state() -> None:
    kv_heads = text("granitehybrid.attention.head_count_kv") + struct.pack("<IIQ3i", 9, 5, 3, 0, 4, 0)
    numbers = {
        "block_count": 3,
        "embedding_length": 64,
        "attention.head_count": 4,
        "context_length": 4096,
        "ssm.conv_kernel": 4,
        "ssm.inner_size": 128,
        "ssm.state_size": 16,
        "ssm.group_count": 1,
    }
    metadata = read(
        header(
            key_text("general.architecture", "granitehybrid"),
            kv_heads,
            *(key_u32(f"granitehybrid.{key}", value) for key, value in numbers.items()),
            tensors=(
                tensor("blk.0.ssm_in.weight", (64, 4)),
                tensor("blk.1.attn_k.weight", (64, 64), offset=1024),
                tensor("blk.2.ssm_in.weight", (64, 4), offset=17408),
            ),
        )
        + bytes(32768)
    )
    layers = gguf.build_model_shape([metadata]).layers
    state_bytes = (3 * (128 + 2 * 16) + 16 * 128) * 4
    assert [(layer.key_width, layer.state_bytes) for layer in layers] == [
        (0, state_bytes),
        (64, 0),
        (0, state_bytes),
    ]


def test_linear_attention_has_a_state_and_no_kv_cache(tmp_path: Path) -> None:
    metadata = metadata_of(write_hybrid_model(tmp_path / "m.gguf"))
    layers = gguf.build_model_shape([metadata]).layers
    # What llama.cpp reports for this file: 2 of 4 layers in its KV cache, 5632 bytes of state in the others.
    assert [(layer.key_width, layer.value_width, layer.state_bytes) for layer in layers] == [
        (0, 0, 5632),
        (32, 32, 0),
        (0, 0, 5632),
        (32, 32, 0),
    ]
    # The only architecture with both in one layer.
    both = gguf.build_model_shape([replace(metadata, architecture="falcon-h1")]).layers[0]
    assert (both.key_width, both.state_bytes) == (32, 5632)


def test_heads_for_multi_token_prediction_are_not_loaded(tmp_path: Path) -> None:
    metadata = metadata_of(write_chat_model(tmp_path / "m.gguf", layers=3))
    predicting = replace(metadata, architecture="qwen35", mtp_layers=1)
    trunk, whole = gguf.build_model_shape([predicting]), gguf.build_model_shape([metadata])
    assert trunk.layers[:2] == whole.layers[:2]
    assert (trunk.layers[2].weight_bytes, trunk.layers[2].key_width) == (0, 0)
    # llama.cpp counts them for `n_gpu_layers`.
    assert trunk.max_gpu_layers == whole.max_gpu_layers
    assert trunk.mtp_layer == whole.layers[2]
    # llama.cpp's graph of this architecture takes exactly one.
    assert gguf.build_model_shape([replace(predicting, mtp_layers=2)]).mtp_layer is None
    # Of architectures that may load them they are counted.
    assert gguf.build_model_shape([replace(predicting, architecture="llama")]) == whole


def test_the_shards_of_a_split_model_add_up() -> None:
    first = read(
        header(
            LLAMA,
            key_u32("llama.block_count", 2),
            key_u32("llama.embedding_length", 64),
            key_u32("llama.attention.head_count", 4),
            key_u32("llama.context_length", 4096),
            key_u32("split.count", 2),
            tensors=(tensor("token_embd.weight", (64, 100)), tensor("blk.0.attn_k.weight", (64, 64))),
        )
    )
    second = read(
        header(
            key_u32("split.count", 2),
            key_u32("split.no", 1),
            tensors=(tensor("blk.1.attn_k.weight", (64, 64)), tensor("output.weight", (64, 100))),
        )
    )
    assert second.architecture is None
    shape = gguf.build_model_shape([first, second])
    assert [layer.weight_bytes for layer in shape.layers] == [16384, 16384]
    assert (shape.input_bytes, shape.output_bytes) == (25600, 25600)


def test_the_output_norm_is_no_output_matrix() -> None:
    tied = read(
        header(
            LLAMA,
            key_u32("llama.block_count", 1),
            key_u32("llama.embedding_length", 64),
            key_u32("llama.attention.head_count", 4),
            tensors=(
                tensor("token_embd.weight", (64, 100)),
                tensor("blk.0.attn_k.weight", (64, 64)),
                tensor("output_norm.weight", (64,)),
                tensor("rope_freqs.weight", (32,)),
            ),
        )
    )
    shape = gguf.build_model_shape([tied])
    assert (shape.output_bytes, shape.output_norm_bytes) == (0, 384)


def test_a_projector_is_told_from_a_model() -> None:
    projector = read(header(key_text("general.architecture", "clip"), tensors=(tensor("v.weight", (64,)),)))
    assert projector.is_projector
    with pytest.raises(GgufError, match="does not describe a language model"):
        gguf.build_model_shape([projector])


def test_layers_that_share_a_cache_have_none_of_their_own(tmp_path: Path) -> None:
    metadata = metadata_of(write_chat_model(tmp_path / "m.gguf", layers=3))
    whole = gguf.build_model_shape([metadata])
    shape = gguf.build_model_shape([replace(metadata, shared_kv_layers=2)])
    assert [layer.key_width for layer in shape.layers] == [whole.layers[0].key_width, 0, 0]
    # A file that claims more than it has.
    assert [
        layer.key_width for layer in gguf.build_model_shape([replace(metadata, shared_kv_layers=9)]).layers
    ] == [0] * 3


def test_a_projector_takes_its_whole_file(tmp_path: Path) -> None:
    metadata = metadata_of(write_chat_model(tmp_path / "m.gguf"))
    projector = replace(metadata, is_projector=True, data_end=12_345)
    assert gguf.build_model_shape([projector, metadata]).projector_bytes == 12_345
    assert replace(
        gguf.build_model_shape([projector, metadata]), projector_bytes=0
    ) == gguf.build_model_shape([metadata])


@pytest.mark.parametrize(
    ("changes", "can_be_quantized"),
    [
        ({"key_length": 64, "value_length": 32}, True),
        ({"key_length": 80, "value_length": 32}, False),
        ({"key_length": 64, "value_length": 32, "value_length_windowed": 48}, False),
        ({"key_length": 64, "value_length": 32, "causal": False}, False),
        ({"key_length": 64, "value_length": 32, "architecture": "deepseek2"}, False),
    ],
)
def test_a_cache_is_quantized_in_whole_blocks(
    tmp_path: Path, changes: dict[str, Any], can_be_quantized: bool
) -> None:
    metadata = metadata_of(write_chat_model(tmp_path / "m.gguf", layers=1))
    windows = {"key_length_windowed": 32, "value_length_windowed": 32}
    shape = gguf.build_model_shape([replace(metadata, **(windows | changes))])
    assert shape.has_quantizable_kv_cache is can_be_quantized


def test_a_head_without_its_tensors_drafts_nothing(tmp_path: Path) -> None:
    metadata = metadata_of(write_chat_model(tmp_path / "m.gguf", layers=2))
    declared = replace(metadata, architecture="qwen35", mtp_layers=1)
    assert gguf.build_model_shape([declared]).mtp_layer is not None
    without = replace(declared, blocks={0: metadata.blocks[0]})
    assert gguf.build_model_shape([without]).mtp_layer is None
