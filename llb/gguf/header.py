"""Header of a GGUF file: its keys and tensor infos, validated. The input is hostile.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian. At most 32
MiB are read, each count and size is checked before it is used, and the vocabulary is skipped.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import BinaryIO, Final, NamedTuple

from msgspec import Struct, field

from llb.texts.coded_text import CodedText

MAX_HEADER_BYTES: Final = 32 * 2**20
# A first range request of this size contains the header of most models.
INITIAL_READ_BYTES: Final = 8 * 2**20
MAX_LAYERS: Final = 2048

_READ_BYTES = 256 * 2**10
# About ten times the numbers of any known model.
_MAX_KEYS = 4096
_MAX_TENSORS = 2**16
_MAX_STORED_NUMBERS = 2**16

# The limit of the format.
_MAX_KEY_BYTES = 2**16 - 1
# GGML_MAX_NAME without the terminating zero.
_MAX_TENSOR_NAME_BYTES = 63
_MAX_DIMENSIONS = 4
_MAX_STORED_TEXT_BYTES = 256
# Texts that are longer: templates of known models have up to 20 KB.
CHAT_TEMPLATE_KEY: Final = "tokenizer.chat_template"
TOKENS_KEY: Final = "tokenizer.ggml.tokens"
TOOL_TEMPLATE_KEY: Final = "tokenizer.chat_template.tool_use"
_MAX_TEMPLATE_BYTES = 256 * 2**10
_MAX_ALIGNMENT = 2**20
MAX_INT64: Final = 2**63 - 1

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
# gguf_type of llama.cpp: number → struct format. 8 is a string, 9 an array.
_SCALAR_TYPES: Final[Mapping[int, struct.Struct]] = {
    number: struct.Struct("<" + code)
    for number, code in {
        0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"
    }.items()
}  # fmt: skip
_STRING_TYPE, _ARRAY_TYPE = 8, 9
# All scalars but the floats.
_INTEGER_TYPES = frozenset(_SCALAR_TYPES) - {6, 12}

# ggml_type → name, values per block, bytes per block.
_TENSOR_TYPES: Final[Mapping[int, tuple[str, int, int]]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8),
    28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip
_Scalar = int | float | bool | str


class GgufError(Exception):
    """The file cannot be used; the message is a clause such as "it is not a GGUF file"."""

    def __init__(self, message: str) -> None:
        """`message` without a code is a detail of the format, for people who know it."""
        super().__init__(message)
        is_coded = isinstance(message, CodedText)
        self.message = message if is_coded else CodedText("gguf_invalid", "{detail}", detail=message)


class NeedMoreData(Exception):
    """The header is longer than the data; the next attempt needs the first `size_bytes` of the file."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"the header needs at least {size_bytes} bytes")
        self.size_bytes = size_bytes


class TensorInfo(NamedTuple):
    """Tensor info; `offset` is relative to the start of the tensor data."""

    name: str
    shape: tuple[int, ...]
    type: str
    value_count: int
    size_bytes: int
    offset: int


class GgufHeader(Struct, frozen=True):
    """Header: keys, tensor infos, and the offset of the tensor data."""

    keys: HeaderKeys
    tensors: tuple[TensorInfo, ...]
    data_start: int


class HeaderKeys(Struct):
    """Keys of a header: scalars, short texts and chat templates, short lists of integers, and the lengths of
    all arrays and texts.
    """

    values: dict[str, _Scalar] = field(default_factory=dict)
    lists: dict[str, tuple[int, ...]] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    # Only of a header that is parsed for them.
    tokens: tuple[bytes, ...] = ()

    def __contains__(self, key: str) -> bool:
        return key in self.values or key in self.lengths

    def can_store(self, count: int) -> bool:
        """Return whether another list of `count` numbers may be stored, against memory exhaustion."""
        return sum(map(len, self.lists.values())) + count <= _MAX_STORED_NUMBERS

    def get_int(self, key: str, *, default: int = 0) -> int:
        """Return an integer that is not negative. Raises `GgufError`."""
        value = self.values.get(key, default)
        # A bool counts as 0 or 1.
        if not isinstance(value, int):
            raise GgufError(f"its {key} is not a whole number")
        if not 0 <= value <= MAX_INT64:
            raise GgufError(f"its {key} is {value}")
        return int(value)

    def get_size(self, key: str, *, default: int = 0) -> int:
        """Return a width or a length. Raises `GgufError` above 32 bits."""
        value = self.get_int(key, default=default)
        if value >= 2**32:
            raise GgufError(f"its {key} is {value}")
        return value

    def get_per_layer(self, key: str, layer_count: int, *, default: int) -> tuple[int, ...]:
        """Return one number per layer, from a list or from one number for all. Raises `GgufError`."""
        if (numbers := self.lists.get(key)) is not None:
            if len(numbers) < layer_count or not all(0 <= value < 2**32 for value in numbers):
                raise GgufError(f"its {key} does not fit its {layer_count} layers")
            return numbers[:layer_count]
        return (self.get_size(key, default=default),) * layer_count

    def get_text(self, key: str) -> str | None:
        """Return a short text, None if the key is missing, long or no text."""
        value = self.values.get(key)
        return value if isinstance(value, str) else None


def parse_header(data: BinaryIO, *, file_size: int, keeps_tokens: bool = False) -> GgufHeader:
    """Parse the header; `data` starts at the first byte of the file and may be a prefix of it.

    `keeps_tokens`: with the vocabulary.

    Raises `NeedMoreData` if it ends before the header, `GgufError` for a header that llama.cpp cannot load.
    """
    reader = _HeaderReader(data, file_size)
    if reader.read_bytes(4) != b"GGUF":
        raise GgufError(CodedText("gguf_not_gguf", "it is not a GGUF file"))
    version = reader.read_u32()
    if version & 0xFFFF == 0:
        raise GgufError(
            CodedText(
                "gguf_big_endian",
                "it is a big-endian GGUF file, and this host's llama.cpp reads little-endian ones",
            )
        )
    if version not in (2, 3):
        raise GgufError(
            CodedText(
                "gguf_version",
                "it has GGUF version {version}, and only 2 and 3 are supported",
                version=version,
            )
        )
    tensor_count, key_count = reader.read_u64(), reader.read_u64()
    if tensor_count > _MAX_TENSORS or key_count > _MAX_KEYS:
        raise GgufError(f"it claims {tensor_count} tensors and {key_count} keys")
    keys = _read_keys(reader, key_count, keeps_tokens=keeps_tokens)
    tensors = tuple(_read_tensor(reader) for _ in range(tensor_count))
    alignment = keys.get_int("general.alignment", default=32)
    if not 1 <= alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
        raise GgufError(f"it claims an alignment of {alignment} bytes")
    return GgufHeader(keys, tensors, data_start=-(-reader.position // alignment) * alignment)


class _HeaderReader:
    """Reads values in sequence from the start of a file, at most `MAX_HEADER_BYTES`."""

    def __init__(self, data: BinaryIO, file_size: int) -> None:
        self._data = data
        self._file_size = file_size
        self._buffer = bytearray()
        self.position = 0

    def _advance(self, size: int) -> int:
        """Skip `size` bytes, which are in the buffer afterwards; returns their offset."""
        start, end = self.position, self.position + size
        if end > len(self._buffer):
            self._fetch(end)
        self.position = end
        return start

    def _fetch(self, end: int) -> None:
        if end > self._file_size:
            raise GgufError(CodedText("gguf_short_header", "it is truncated: it ends within its header"))
        if end > MAX_HEADER_BYTES:
            raise GgufError(f"its header is larger than {MAX_HEADER_BYTES >> 20} MiB")
        while len(self._buffer) < end:
            size = min(max(end - len(self._buffer), _READ_BYTES), MAX_HEADER_BYTES - len(self._buffer))
            chunk = self._data.read(size)
            if not chunk:
                raise NeedMoreData(min(self._file_size, MAX_HEADER_BYTES, max(end, 2 * len(self._buffer))))
            self._buffer += chunk

    def read_bytes(self, size: int) -> bytes:
        start = self._advance(size)
        return bytes(self._buffer[start : start + size])

    def skip(self, size: int) -> None:
        self._advance(size)

    def read_u32(self) -> int:
        return int(_U32.unpack_from(self._buffer, self._advance(4))[0])

    def read_u64(self) -> int:
        return int(_U64.unpack_from(self._buffer, self._advance(8))[0])

    def read_scalar(self, scalar_type: struct.Struct) -> int | float | bool:
        start = self._advance(scalar_type.size)
        value: int | float | bool = scalar_type.unpack_from(self._buffer, start)[0]
        return value

    def read_string(self, max_bytes: int, description: str) -> str:
        size = self.read_u64()
        if size > max_bytes:
            raise GgufError(f"{description} of {size} bytes is too long")
        return self.read_bytes(size).decode("utf-8", errors="replace")

    def skip_strings(self, count: int) -> None:
        # The hot loop: a large vocabulary has half a million tokens and merges.
        unpack_length, buffer, position = _U64.unpack_from, self._buffer, self.position
        for _ in range(count):
            if position + 8 > len(buffer):
                self._fetch(position + 8)
            position += 8 + int(unpack_length(buffer, position)[0])
            if position > MAX_HEADER_BYTES:
                break
        self.position = 0
        self._advance(position)


def _read_keys(reader: _HeaderReader, count: int, *, keeps_tokens: bool) -> HeaderKeys:
    keys = HeaderKeys()
    seen: set[str] = set()
    for _ in range(count):
        key = reader.read_string(_MAX_KEY_BYTES, "a key")
        if key in seen:
            raise GgufError("it contains a key twice")
        seen.add(key)
        kind = reader.read_u32()
        if kind == _ARRAY_TYPE:
            _read_array(reader, keys, key, keeps_strings=keeps_tokens and key == TOKENS_KEY)
        elif kind == _STRING_TYPE:
            keys.lengths[key] = size = reader.read_u64()
            is_template = key in (CHAT_TEMPLATE_KEY, TOOL_TEMPLATE_KEY)
            if size <= (_MAX_TEMPLATE_BYTES if is_template else _MAX_STORED_TEXT_BYTES):
                keys.values[key] = reader.read_bytes(size).decode("utf-8", errors="replace")
            else:
                reader.skip(size)
        elif kind in _SCALAR_TYPES:
            keys.values[key] = reader.read_scalar(_SCALAR_TYPES[kind])
        else:
            raise GgufError(f"it has a value of the unknown type {kind}")
    return keys


def _read_array(reader: _HeaderReader, keys: HeaderKeys, key: str, *, keeps_strings: bool) -> None:
    kind, count = reader.read_u32(), reader.read_u64()
    keys.lengths[key] = count
    if kind == _STRING_TYPE and keeps_strings:
        # Each is read from the data, which is limited, before the next one.
        keys.tokens = tuple(reader.read_bytes(reader.read_u64()) for _ in range(count))
    elif kind == _STRING_TYPE:
        reader.skip_strings(count)
    elif kind not in _SCALAR_TYPES:
        raise GgufError(f"it has an array of the invalid type {kind}")
    elif count <= MAX_LAYERS and kind in _INTEGER_TYPES and keys.can_store(count):
        keys.lists[key] = tuple(int(reader.read_scalar(_SCALAR_TYPES[kind])) for _ in range(count))
    else:
        reader.skip(count * _SCALAR_TYPES[kind].size)


def _read_tensor(reader: _HeaderReader) -> TensorInfo:
    name = reader.read_string(_MAX_TENSOR_NAME_BYTES, "a tensor's name")
    dimensions = reader.read_u32()
    if dimensions > _MAX_DIMENSIONS:
        raise GgufError(f"its tensor {name!r} has {dimensions} dimensions")
    shape = tuple(reader.read_u64() for _ in range(dimensions))
    kind, offset = reader.read_u32(), reader.read_u64()
    if kind not in _TENSOR_TYPES:
        raise GgufError(
            CodedText(
                "gguf_unknown_type",
                "its tensor {name} has the unknown type {kind}; a newer llb may support it",
                name=repr(name),
                kind=kind,
            )
        )
    type_name, block_values, block_bytes = _TENSOR_TYPES[kind]
    value_count = 1
    for size in shape:
        value_count *= size
        if value_count > MAX_INT64:
            raise GgufError(f"its tensor {name!r} is larger than any file")
    if (shape[0] if shape else 1) % block_values:
        raise GgufError(f"its tensor {name!r} has rows that are not whole blocks of {type_name}")
    size_bytes = value_count // block_values * block_bytes
    if offset + size_bytes > MAX_INT64:
        raise GgufError(f"its tensor {name!r} is beyond the end of any file")
    return TensorInfo(name, shape, type_name, value_count, size_bytes, offset)
