"""Parser of GGUF headers: refusals, bytes read, hostile headers."""

from __future__ import annotations

import io
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llb import gguf
from llb.gguf import GgufError, NeedMoreData
from tests.gguf.headers import LLAMA, header, key_text, key_u32, metadata_of, read, tensor, text
from tests.ggufs import write_chat_model

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


@settings(
    max_examples=3 * settings().max_examples,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
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


@settings(max_examples=2 * settings().max_examples, deadline=None)
@given(raw=st.binary(max_size=400))
def test_any_bytes_after_the_magic(raw: bytes) -> None:
    with pytest.raises((GgufError, NeedMoreData)):
        read(b"GGUF" + struct.pack("<I", 3) + raw, file_size=2**40)
