"""The header of a GGUF file: its keys and tensor infos, checked. The input is hostile.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little endian. At most 32 MiB are
read, every count and size is checked against what is there before it is used, and the vocabulary is stepped over.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Final, NamedTuple

MAX_HEADER_BYTES: Final = 32 * 2**20
PREFIX_BYTES: Final = 8 * 2**20  # a first ranged request of this size holds the header of most models
MAX_LAYERS: Final = 2048

_READ_BYTES = 256 * 2**10
# Some ten times what any model has.
_MAX_KEYS = 4096
_MAX_TENSORS = 2**16
_MAX_KEPT_NUMBERS = 2**16

_MAX_KEY_BYTES = 2**16 - 1  # as the format says
_MAX_TENSOR_NAME_BYTES = 63  # GGML_MAX_NAME, less its zero
_MAX_DIMENSIONS = 4
_MAX_KEPT_TEXT_BYTES = 256
_MAX_ALIGNMENT = 2**20
MAX_SIZE: Final = 2**63 - 1

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
# What llama.cpp calls gguf_type: number → struct format. 8 is a string, 9 an array.
_SCALARS: Final[Mapping[int, struct.Struct]] = {
    number: struct.Struct("<" + code)
    for number, code in {
        0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"
    }.items()
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_WHOLE = frozenset(_SCALARS) - {6, 12}  # all but the floats

# ggml_type → name, numbers in a block, bytes of a block.
_TYPES: Final[Mapping[int, tuple[str, int, int]]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip
_Scalar = int | float | bool | str


class GgufError(Exception):
    """The file cannot be used; the message goes on after "the file": "it is not a GGUF file"."""


class NeedMore(Exception):
    """The header goes on beyond the bytes that were given; `size_bytes` of the file's beginning are enough for a next try."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"the header needs at least {size_bytes} bytes")
        self.size_bytes = size_bytes


class Tensor(NamedTuple):
    """One tensor info; `offset` counts from the start of the tensor data."""

    name: str
    shape: tuple[int, ...]
    type: str
    numbers: int
    size_bytes: int
    offset: int


@dataclass(frozen=True, slots=True)
class Header:
    version: int
    keys: Keys
    tensors: tuple[Tensor, ...]
    data_start: int


@dataclass(slots=True)
class Keys:
    """The keys of a header: single values, short lists of whole numbers, and how long every array and text is."""

    values: dict[str, _Scalar] = field(default_factory=dict)
    lists: dict[str, tuple[int, ...]] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)

    def __contains__(self, key: str) -> bool:
        return key in self.values or key in self.lengths

    def room_for(self, count: int) -> bool:
        """Whether a list of so many numbers may be kept: a hostile file has many."""
        return sum(map(len, self.lists.values())) + count <= _MAX_KEPT_NUMBERS

    def number(self, key: str, *, default: int = 0) -> int:
        value = self.values.get(key, default)
        if not isinstance(value, int):  # a bool is one: 0 or 1
            raise GgufError(f"its {key} is not a whole number")
        if not 0 <= value <= MAX_SIZE:
            raise GgufError(f"its {key} is {value}")
        return int(value)

    def measure(self, key: str, *, default: int = 0) -> int:
        """A number that stands for a width or a length; refused where no model could have it."""
        value = self.number(key, default=default)
        if value >= 2**32:
            raise GgufError(f"its {key} is {value}")
        return value

    def each(self, key: str, count: int, *, default: int) -> tuple[int, ...]:
        """One number a layer, from a list or from one number for all."""
        if (listed := self.lists.get(key)) is not None:
            if len(listed) < count or not all(0 <= value < 2**32 for value in listed):
                raise GgufError(f"its {key} does not fit its {count} layers")
            return listed[:count]
        return (self.measure(key, default=default),) * count

    def text(self, key: str) -> str | None:
        value = self.values.get(key)
        return value if isinstance(value, str) else None

    def real(self, key: str) -> float | None:
        value = self.values.get(key)
        return float(value) if isinstance(value, int | float) else None


def parse(data: BinaryIO, *, file_size: int) -> Header:
    """Keys and tensor infos; `data` begins at the file's first byte and may end before the file does.

    Raises `NeedMore` if it ends before the header does, `GgufError` if this is no header that llama.cpp could load.
    """
    reader = _Reader(data, file_size)
    if reader.take(4) != b"GGUF":
        raise GgufError("it is not a GGUF file")
    version = reader.u32()
    if version & 0xFFFF == 0:
        raise GgufError("it is a big-endian GGUF file, and this host's llama.cpp reads little-endian ones")
    if version not in (2, 3):
        raise GgufError(f"it has GGUF version {version}, and only 2 and 3 are known")
    tensor_count, key_count = reader.u64(), reader.u64()
    if tensor_count > _MAX_TENSORS or key_count > _MAX_KEYS:
        raise GgufError(f"it claims {tensor_count} tensors and {key_count} keys")
    keys = _read_keys(reader, key_count)
    tensors = tuple(_read_tensor(reader) for _ in range(tensor_count))
    alignment = keys.number("general.alignment", default=32)
    if not 1 <= alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
        raise GgufError(f"it claims an alignment of {alignment} bytes")
    return Header(version, keys, tensors, data_start=-(-reader.position // alignment) * alignment)


class _Reader:
    """Takes values from the beginning of a file, reading on as needed, never more than the limit."""

    def __init__(self, data: BinaryIO, file_size: int) -> None:
        self._data = data
        self._file_size = file_size
        self._held = bytearray()
        self.position = 0

    def _step(self, size: int) -> int:
        """Move on by `size` bytes that are there; returns where they begin."""
        start, end = self.position, self.position + size
        if end > len(self._held):
            self._fetch(end)
        self.position = end
        return start

    def _fetch(self, end: int) -> None:
        if end > self._file_size:
            raise GgufError("it is truncated: it ends within its header")
        if end > MAX_HEADER_BYTES:
            raise GgufError(f"its header is larger than {MAX_HEADER_BYTES >> 20} MiB")
        while len(self._held) < end:
            wanted = min(max(end - len(self._held), _READ_BYTES), MAX_HEADER_BYTES - len(self._held))
            piece = self._data.read(wanted)
            if not piece:
                raise NeedMore(min(self._file_size, MAX_HEADER_BYTES, max(end, 2 * len(self._held))))
            self._held += piece

    def take(self, size: int) -> bytes:
        start = self._step(size)
        return bytes(self._held[start : start + size])

    def skip(self, size: int) -> None:
        self._step(size)

    def u32(self) -> int:
        return int(_U32.unpack_from(self._held, self._step(4))[0])

    def u64(self) -> int:
        return int(_U64.unpack_from(self._held, self._step(8))[0])

    def scalar(self, kind: struct.Struct) -> int | float | bool:
        start = self._step(kind.size)
        value: int | float | bool = kind.unpack_from(self._held, start)[0]
        return value

    def text(self, most_bytes: int, what: str) -> str:
        size = self.u64()
        if size > most_bytes:
            raise GgufError(f"{what} of {size} bytes is too long")
        return self.take(size).decode("utf-8", errors="replace")

    def skip_strings(self, count: int) -> None:
        # The hot loop: half a million tokens and merges of a large vocabulary.
        length_of, held, position = _U64.unpack_from, self._held, self.position
        for _ in range(count):
            if position + 8 > len(held):
                self._fetch(position + 8)
            position += 8 + int(length_of(held, position)[0])
            if position > MAX_HEADER_BYTES:
                break
        self.position = 0
        self._step(position)


def _read_keys(reader: _Reader, count: int) -> Keys:
    keys = Keys()
    seen: set[str] = set()
    for _ in range(count):
        key = reader.text(_MAX_KEY_BYTES, "a key")
        if key in seen:
            raise GgufError("it has one key twice")
        seen.add(key)
        kind = reader.u32()
        if kind == _ARRAY:
            _read_array(reader, keys, key)
        elif kind == _STRING:
            keys.lengths[key] = size = reader.u64()
            if size <= _MAX_KEPT_TEXT_BYTES:
                keys.values[key] = reader.take(size).decode("utf-8", errors="replace")
            else:
                reader.skip(size)
        elif kind in _SCALARS:
            keys.values[key] = reader.scalar(_SCALARS[kind])
        else:
            raise GgufError(f"it has a value of the unknown type {kind}")
    return keys


def _read_array(reader: _Reader, keys: Keys, key: str) -> None:
    kind, count = reader.u32(), reader.u64()
    keys.lengths[key] = count
    if kind == _STRING:
        reader.skip_strings(count)
    elif kind not in _SCALARS:
        raise GgufError(f"it has an array of the type {kind}, which cannot be one")
    elif count <= MAX_LAYERS and kind in _WHOLE and keys.room_for(count):
        keys.lists[key] = tuple(int(reader.scalar(_SCALARS[kind])) for _ in range(count))
    else:
        reader.skip(count * _SCALARS[kind].size)


def _read_tensor(reader: _Reader) -> Tensor:
    name = reader.text(_MAX_TENSOR_NAME_BYTES, "a tensor's name")
    dimensions = reader.u32()
    if dimensions > _MAX_DIMENSIONS:
        raise GgufError(f"its tensor {name!r} has {dimensions} dimensions")
    shape = tuple(reader.u64() for _ in range(dimensions))
    kind, offset = reader.u32(), reader.u64()
    if kind not in _TYPES:
        raise GgufError(f"its tensor {name!r} has the unknown type {kind}; a newer llb may know it")
    type_name, block_numbers, block_bytes = _TYPES[kind]
    numbers = 1
    for size in shape:
        numbers *= size
        if numbers > MAX_SIZE:
            raise GgufError(f"its tensor {name!r} is larger than any file")
    if (shape[0] if shape else 1) % block_numbers:
        raise GgufError(f"its tensor {name!r} has rows that are not whole blocks of {type_name}")
    size_bytes = numbers // block_numbers * block_bytes
    if offset + size_bytes > MAX_SIZE:
        raise GgufError(f"its tensor {name!r} lies beyond the end of any file")
    return Tensor(name, shape, type_name, numbers, size_bytes, offset)
