"""GGUF headers: metadata of valid files, and rejection of hostile ones."""

from __future__ import annotations

import io
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from llb import gguf
from llb.gguf import GgufError, GgufMetadata, NeedMoreData
from tests.ggufs import write_chat_model, write_embedding_model, write_hybrid_model


def metadata_of(path: Path) -> GgufMetadata:
    with path.open("rb") as file:
        return gguf.read_metadata(file, file_size=path.stat().st_size)


def text(value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def key_u32(key: str, value: int) -> bytes:
    return text(key) + struct.pack("<II", 4, value)


def key_text(key: str, value: str) -> bytes:
    return text(key) + struct.pack("<I", 8) + text(value)


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    dimensions = b"".join(struct.pack("<Q", size) for size in shape)
    return text(name) + struct.pack("<I", len(shape)) + dimensions + struct.pack("<IQ", kind, offset)


def header(
    *keys: bytes,
    tensors: tuple[bytes, ...] = (),
    version: int = 3,
    key_count: int | None = None,
    tensor_count: int | None = None,
) -> bytes:
    counts = struct.pack(
        "<QQ",
        len(tensors) if tensor_count is None else tensor_count,
        len(keys) if key_count is None else key_count,
    )
    return b"GGUF" + struct.pack("<I", version) + counts + b"".join(keys) + b"".join(tensors)


LLAMA = key_text("general.architecture", "llama")


def read(raw: bytes, *, file_size: int | None = None) -> GgufMetadata:
    return gguf.read_metadata(io.BytesIO(raw), file_size=len(raw) if file_size is None else file_size)


# --- what a header says ------------------------------------------------------------------------------


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


def test_heads_may_differ_from_layer_to_layer_and_recurrent_ones_keep_a_state() -> None:
    kv_heads = text("granitehybrid.attention.head_count_kv") + struct.pack("<IIQ3i", 9, 5, 3, 0, 4, 0)
    numbers = {
        "block_count": 3, "embedding_length": 64, "attention.head_count": 4, "context_length": 4096,
        "ssm.conv_kernel": 4, "ssm.inner_size": 128, "ssm.state_size": 16, "ssm.group_count": 1,
    }  # fmt: skip
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


# --- what is refused ---------------------------------------------------------------------------------

TWO_63 = 2**63
BAD: dict[str, tuple[bytes, str]] = {
    "a page of HTML": (b"<!DOCTYPE html><html>", "it is not a GGUF file"),
    "nothing": (b"", "it is truncated: it ends within its header"),
    "big-endian": (b"GGUF" + struct.pack(">I", 3) + bytes(16), "big-endian"),
    "version 1": (header(LLAMA, version=1), "GGUF version 1"),
    "version of the future": (header(LLAMA, version=4), "GGUF version 4"),
    "no architecture": (header(key_u32("a", 1)), "does not say its architecture"),
    "lying key count": (header(key_count=2**60), "it claims 0 tensors and 1152921504606846976 keys"),
    "lying tensor count": (header(LLAMA, tensor_count=2**40), "it claims 1099511627776 tensors"),
    "more keys than there are": (header(LLAMA, key_count=9), "truncated"),
    "endless key": (header(struct.pack("<Q", 2**40)), "a key of 1099511627776 bytes is too long"),
    "endless text": (header(text("a") + struct.pack("<IQ", 8, TWO_63)), "truncated"),
    "endless array": (header(text("a") + struct.pack("<IIQ", 9, 10, TWO_63)), "truncated"),
    "endless strings": (header(text("a") + struct.pack("<IIQ", 9, 8, TWO_63) + text("x" * 99)), "truncated"),
    "a string of 2⁶⁴": (header(text("a") + struct.pack("<IIQQ", 9, 8, 1, 2**64 - 1)), "truncated"),
    "nested arrays": (header(text("a") + struct.pack("<IIQ", 9, 9, 1)), "array of the invalid type 9"),
    "unknown value": (header(text("a") + struct.pack("<I", 77)), "unknown type 77"),
    "a key twice": (header(LLAMA, LLAMA), "a key twice"),
    "text for a number": (header(LLAMA, key_text("llama.block_count", "x")), "is not a whole number"),
    "too many layers": (header(LLAMA, key_u32("llama.block_count", 2**31)), "it claims 2147483648 layers"),
    "odd alignment": (header(LLAMA, key_u32("general.alignment", 24)), "alignment of 24"),
    "no alignment": (header(LLAMA, key_u32("general.alignment", 0)), "alignment of 0"),
    "five dimensions": (header(LLAMA, tensors=(tensor("t", (1, 1, 1, 1, 1)),)), "5 dimensions"),
    "overflow": (header(LLAMA, tensors=(tensor("t", (2**40, 2**40)),)), "larger than any file"),
    "overflowing offset": (header(LLAMA, tensors=(tensor("t", (8,), offset=2**64 - 1),)), "beyond the end"),
    "unknown tensor type": (header(LLAMA, tensors=(tensor("t", (8,), kind=99),)), "unknown type 99"),
    "half a block": (header(LLAMA, tensors=(tensor("t", (33,), kind=2),)), "not whole blocks of Q4_0"),
    "a long tensor name": (header(LLAMA, tensors=(tensor("t" * 64, (8,)),)), "name of 64 bytes is too long"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_refuses(name: str) -> None:
    raw, reason = BAD[name]
    with pytest.raises(GgufError, match=reason):
        read(raw)


def test_a_list_shorter_than_the_layers_is_refused() -> None:
    heads = text("llama.attention.head_count") + struct.pack("<IIQi", 9, 5, 1, 4)
    with pytest.raises(GgufError, match="does not fit its 2 layers"):
        read(header(LLAMA, key_u32("llama.block_count", 2), heads))


def test_reads_no_further_than_32_mib() -> None:
    raw = header(text("a") + struct.pack("<IQ", 8, 40 * 2**20)) + bytes(41 * 2**20)
    with pytest.raises(GgufError, match="larger than 32 MiB"):
        read(raw)


def test_a_truncated_file_is_noticed(tmp_path: Path) -> None:
    path = write_chat_model(tmp_path / "m.gguf")
    metadata, size = metadata_of(path), path.stat().st_size
    gguf.check_complete(metadata, metadata.data_end)
    with pytest.raises(GgufError, match="it is truncated"):
        gguf.check_complete(metadata, metadata.data_end - 1)
    with pytest.raises(GgufError, match="ends within its header"):
        gguf.read_metadata(io.BytesIO(path.read_bytes()[:1000]), file_size=1000)
    assert metadata.data_end <= size


def test_a_prefix_says_how_much_more_it_needs(tmp_path: Path) -> None:
    path = write_chat_model(tmp_path / "m.gguf", vocab=5000)
    content, size = path.read_bytes(), path.stat().st_size
    sizes = [100]
    metadata = None
    while metadata is None:
        try:
            metadata = gguf.read_metadata(io.BytesIO(content[: sizes[-1]]), file_size=size)
        except NeedMoreData as more:
            sizes.append(more.size_bytes)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] <= size
    assert 2 <= len(sizes) < 20
    assert metadata == metadata_of(path)


# --- hostile headers ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = write_chat_model(tmp_path_factory.mktemp("gguf") / "m.gguf", vocab=270, layers=1, experts=2)
    raw = path.read_bytes()
    return raw[: metadata_of(path).data_start]


Mutation = Callable[[bytes], bytes]


@st.composite
def mutations(draw: st.DrawFn) -> Mutation:
    """Draw an edit at a random offset: overwrite (often a count), insert or remove bytes, or truncate."""
    position = draw(st.floats(0, 1, exclude_max=True))
    count = st.sampled_from([2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**64 - 1]).map(
        lambda number: struct.pack("<Q", number)
    )
    inserted = draw(st.one_of(count, st.binary(min_size=1, max_size=12)))
    kind = draw(st.sampled_from(["overwrite", "insert", "remove", "cut"]))

    def apply(raw: bytes) -> bytes:
        at = int(position * len(raw))
        match kind:
            case "overwrite":
                return raw[:at] + inserted + raw[at + len(inserted) :]
            case "insert":
                return raw[:at] + inserted + raw[at:]
            case "remove":
                return raw[:at] + raw[at + len(inserted) :]
        return raw[:at]

    return apply


BOUND_BYTES = 8 * 2**20


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(mutations(), min_size=1, max_size=4), complete=st.booleans())
def test_a_broken_header_never_does_more_than_be_refused(
    valid: bytes, edits: list[Mutation], complete: bool
) -> None:
    raw = valid
    for edit in edits:
        raw = edit(raw)
    file_size = len(raw) if complete else 2**40
    tracemalloc.start()
    try:
        metadata = gguf.read_metadata(io.BytesIO(raw), file_size=file_size)
        gguf.check_complete(metadata, file_size)
        gguf.build_model_shape([metadata])
    except (GgufError, NeedMoreData):
        pass
    finally:
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak_bytes < BOUND_BYTES


@settings(max_examples=200, deadline=None)
@given(raw=st.binary(max_size=400))
def test_any_bytes_after_the_magic(raw: bytes) -> None:
    with pytest.raises((GgufError, NeedMoreData)):
        read(b"GGUF" + struct.pack("<I", 3) + raw, file_size=2**40)
