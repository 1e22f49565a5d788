"""Hugging Face cache of the user on this host, whose files need no download."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from llb.wire.models import SHA256_PATTERN


def find_cached_file(sha256: str) -> Path | None:
    """Return the cached file with this sha256 by its name (not verified), or None; blocking."""
    if SHA256_PATTERN.fullmatch(sha256) is None:
        return None
    # RuntimeError: this user has no home directory.
    with suppress(OSError, RuntimeError):
        for path in _cache_dir().glob(f"models--*/blobs/{sha256}"):
            if path.is_file() and os.access(path, os.R_OK):
                return path.resolve()
    return None


def _cache_dir() -> Path:
    """Return the cache directory of huggingface_hub (HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME) without importing
    it.
    """
    env = os.environ
    home = env.get("HF_HOME") or f"{env.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    text = env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE") or f"{home}/hub"
    return Path(os.path.expandvars(text)).expanduser()
