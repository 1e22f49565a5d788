"""Shards of a split model, by the names that llama.cpp's `gguf-split` gives."""

from __future__ import annotations

import re
from pathlib import Path

_SHARD_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


def shards_of(path: Path) -> tuple[Path, ...]:
    """Return all files of the split model that `path` belongs to, or `path` alone."""
    match = _SHARD_NAME.fullmatch(path.name)
    if match is None:
        return (path,)
    name, _, count = match.groups()
    return tuple(path.with_name(f"{name}-{number:05}-of-{count}.gguf") for number in range(1, int(count) + 1))
