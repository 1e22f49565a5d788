"""The user's Hugging Face cache on this host: a file that is there need not be fetched."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

_SHA256 = re.compile("[0-9a-f]{64}")


def find_cached_file(sha256: str) -> Path | None:
    """A file of that sha256 in the user's Hugging Face cache, by its name there (not verified), or None."""
    if _SHA256.fullmatch(sha256) is None:
        return None
    with suppress(OSError):
        for path in _cache_dir().glob(f"models--*/blobs/{sha256}"):
            if path.is_file() and os.access(path, os.R_OK):
                return path.resolve()
    return None


def _cache_dir() -> Path:
    """Where huggingface_hub keeps files, by its rules (HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME), without importing it."""
    env = os.environ
    home = env.get("HF_HOME") or f"{env.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    text = env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE") or f"{home}/hub"
    return Path(os.path.expandvars(text)).expanduser()
