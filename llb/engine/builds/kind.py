"""Kind of the imported build of llama.cpp: from the compiled backends, not from the devices that it finds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Names of backends in `get_system_info()`, and beginnings of the names of their devices.
_BACKENDS = {"CUDA": "cuda", "ROCm": "rocm", "MTL": "metal", "Metal": "metal", "Vulkan": "vulkan"}
_LIBRARIES = {"libvulkan": "vulkan", "vulkan-1": "vulkan"}


def build_kind(xllamacpp: Any, device_names: Sequence[str]) -> str:
    """Return cuda, rocm, metal, vulkan or cpu."""
    sections = [section.partition(" : ")[0].strip() for section in xllamacpp.get_system_info().split("|")]
    for name in (*sections, *(name.rstrip("0123456789") for name in device_names)):
        if name in _BACKENDS:
            return _BACKENDS[name]
    # Vulkan has no section of its own, and its wheel brings the loader.
    libraries = Path(xllamacpp.__file__).parent.with_name("xllamacpp.libs")
    for library in libraries.glob("*"):
        for prefix, kind in _LIBRARIES.items():
            if library.name.startswith(prefix):
                return kind
    return "cpu"
