"""Metadata of GGUF files."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import pytest

from llb import gguf
from llb.gguf import GgufError, GgufMetadata
from tests.gguf.headers import LLAMA, header, key_text, key_u32, metadata_of, read, tensor, text
from tests.ggufs import write_chat_model, write_embedding_model


def test_a_grouped_query_model(tmp_path: Path) -> None:
    path = write_chat_model(tmp_path / "m.gguf", layers=3, embd=64, heads=4, kv_heads=2, quantization="Q8_0")
    metadata = metadata_of(path)
    assert metadata.architecture == "llama"
    assert (metadata.layers, metadata.embedding_length, metadata.vocabulary_size) == (3, 64, 320)
    assert (metadata.heads, metadata.kv_heads) == ((4, 4, 4), (2, 2, 2))
    assert (metadata.key_length, metadata.value_length, metadata.context_length) == (16, 16, 512)
    assert not metadata.is_projector
    assert metadata.causal
    assert sorted(metadata.blocks) == [0, 1, 2]
    assert metadata.data_end == path.stat().st_size
    assert metadata.parameters == 320 * 64 * 2 + 64 + 3 * (2 * 64 + 64 * 64 * 2 + 32 * 64 * 2 + 3 * 64 * 128)
    gguf.check_complete(metadata, path.stat().st_size)


def test_a_mixture_counts_its_experts(tmp_path: Path) -> None:
    metadata = metadata_of(
        write_chat_model(tmp_path / "m.gguf", experts=4, experts_used=2, quantization="F16")
    )
    assert (metadata.experts, metadata.experts_used) == (4, 2)
    # Up, gate and down of 4 experts, 128 wide, in F16.
    assert {block.expert_bytes for block in metadata.blocks.values()} == {3 * 4 * 128 * 64 * 2}
    assert gguf.build_model_shape([metadata]).feed_forward_width == 2 * 128


def test_sliding_windows_follow_the_architecture(tmp_path: Path) -> None:
    path = write_chat_model(tmp_path / "m.gguf", arch="gemma3", layers=7, sliding_window=64)
    assert metadata_of(path).windowed == (True, True, True, True, True, False, True)


def test_an_encoder_keeps_no_cache_and_says_how_it_pools(tmp_path: Path) -> None:
    metadata = metadata_of(write_embedding_model(tmp_path / "m.gguf"))
    assert (metadata.architecture, metadata.causal, metadata.pooling) == ("bert", False, "mean")
    assert gguf.build_model_shape([metadata]).is_encoder


def test_a_truncated_file_is_noticed(tmp_path: Path) -> None:
    path = write_chat_model(tmp_path / "m.gguf")
    metadata, size = metadata_of(path), path.stat().st_size
    gguf.check_complete(metadata, metadata.data_end)
    with pytest.raises(GgufError, match="it is truncated"):
        gguf.check_complete(metadata, metadata.data_end - 1)
    with pytest.raises(GgufError, match="ends within its header"):
        gguf.read_metadata(io.BytesIO(path.read_bytes()[:1000]), file_size=1000)
    assert metadata.data_end <= size


def attention(*more: bytes, arch: str = "llama", layers: int = 4, **numbers: Any) -> GgufMetadata:
    """Metadata of a model with 4 heads of 16, with these numbers below its architecture."""
    plain = {"block_count": layers, "embedding_length": 64, "attention.head_count": 4}
    named = {key.replace("__", "."): value for key, value in numbers.items()}
    keys = (key_u32(f"{arch}.{key}", value) for key, value in (plain | named).items())
    return read(header(key_text("general.architecture", arch), *keys, *more))


def test_lengths_that_a_file_leaves_out_follow_from_others() -> None:
    plain = attention()
    assert (plain.kv_heads, plain.key_length, plain.value_length) == ((4,) * 4, 16, 16)
    assert (plain.key_length_windowed, plain.context_length, plain.pooling) == (16, 0, None)
    wide = attention(attention__key_length=24, attention__key_length_swa=8, attention__head_count_kv=1)
    assert (wide.kv_heads, wide.key_length, wide.value_length) == ((1,) * 4, 24, 16)
    assert (wide.key_length_windowed, wide.value_length_windowed) == (8, 16)


@pytest.mark.parametrize(
    ("arch", "numbers", "windowed"),
    [
        ("llama", {"sliding_window": 64}, "...."),
        ("cohere2", {"sliding_window": 64}, "www."),
        # Values of the file precede the usual ones of the architecture.
        ("cohere2", {"sliding_window": 64, "sliding_window_pattern": 2}, "w.w."),
        ("llama", {"sliding_window": 64, "sliding_window_pattern": 1}, "...."),
        # Without a window no layer uses one.
        ("cohere2", {"sliding_window_pattern": 2}, "...."),
    ],
)
def test_which_layers_use_the_window(arch: str, numbers: dict[str, int], windowed: str) -> None:
    named: dict[str, Any] = {f"attention__{name}": value for name, value in numbers.items()}
    metadata = attention(arch=arch, **named)
    assert "".join(".w"[is_windowed] for is_windowed in metadata.windowed) == windowed


def test_a_list_says_for_each_layer_whether_it_uses_the_window() -> None:
    pattern = text("llama.attention.sliding_window_pattern") + struct.pack("<IIQ4?", 9, 7, 4, 1, 0, 0, 1)
    metadata = attention(pattern, attention__sliding_window=64)
    assert metadata.windowed == (True, False, False, True)


@pytest.mark.parametrize(
    ("numbers", "state_bytes"),
    [
        ({}, 0),
        ({"shortconv__l_cache": 3}, 64 * 2 * 4),
        ({"shortconv__l_cache": 0}, 0),
        ({"wkv__head_size": 32}, 64 * (2 + 32) * 4),
        ({"wkv__head_size": 32, "token_shift_count": 1}, 64 * (1 + 32) * 4),
        ({"ssm__conv_kernel": 4, "ssm__inner_size": 128, "ssm__state_size": 16}, (3 * 128 + 16 * 128) * 4),
    ],
)
def test_the_state_of_recurrent_layers(numbers: dict[str, Any], state_bytes: int) -> None:
    assert attention(**numbers).state_bytes == state_bytes


def test_heads_for_prediction_are_no_more_than_the_layers() -> None:
    assert attention(nextn_predict_layers=2).mtp_layers == 2
    assert attention(nextn_predict_layers=9).mtp_layers == 4


def test_a_pooling_that_llb_does_not_know_is_none() -> None:
    assert attention(pooling_type=3).pooling == "last"
    assert attention(pooling_type=77).pooling is None


def test_a_projector_may_name_its_kind() -> None:
    assert attention(key_text("general.type", "mmproj")).is_projector
    assert not attention(key_text("general.type", "model")).is_projector


def test_matrices_of_some_types_are_repacked_for_a_processor() -> None:
    q4_0, f32 = 2, 0
    metadata = read(
        header(
            LLAMA,
            tensors=(
                tensor("blk.0.attn_k.weight", (32, 4), q4_0),
                tensor("blk.0.attn_k.bias", (32,), q4_0, offset=96),
                tensor("blk.0.attn_v.weight", (32, 4), f32, offset=128),
                # Not in a layer.
                tensor("output.weight", (32, 4), q4_0, offset=640),
            ),
        )
        + bytes(1024)
    )
    assert metadata.repacked_bytes == 4 * 18
