"""Headers of GGUF files, made byte by byte."""

from __future__ import annotations

import io
import struct
from pathlib import Path

from llb import gguf
from llb.gguf import GgufMetadata


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
