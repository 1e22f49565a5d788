"""Python's binding of NVIDIA's management library, imported only where the driver is installed."""

from __future__ import annotations

import ctypes
import importlib
import os
import warnings
from typing import Any

_LIBRARY = "libnvidia-ml.so.1"


def load_nvml() -> Any | None:
    """Return the module `pynvml`; None without it or without NVIDIA's driver."""
    if not has_driver_library():
        return None
    with warnings.catch_warnings():
        # The package warns that it has been renamed.
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module("pynvml")
        except ImportError:
            return None


def has_driver_library() -> bool:
    """Whether the library can be loaded: importing its binding for nothing takes 3 MB of memory."""
    if os.name == "nt":
        # The binding knows where to look.
        return True
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError:
        return False
    return True
