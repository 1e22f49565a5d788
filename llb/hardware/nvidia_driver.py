"""NVIDIA's driver: its version, and which GPUs programs can compute on. No nvidia-smi is needed.

For a child process: a broken driver may hang or crash the process that loads it.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from llb.hardware.nvml_library import load_nvml
from llb.policy.engine_build.choice import GpuFacts

_VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
# CUresult and CUdevice_attribute, cuda.h
_SUCCESS, _NO_DEVICE = 0, 100
_INTEGRATED, _CAPABILITY_MAJOR, _CAPABILITY_MINOR = 18, 75, 76
_TEXT_BYTES = 128


class NvidiaDriver(Struct, frozen=True):
    """`version` and `cuda` are None if no program can compute."""

    version: tuple[int, ...] | None = None
    cuda: tuple[int, int] | None = None
    gpus: tuple[GpuFacts, ...] = ()


def read_nvidia_driver(environ: Mapping[str, str] = os.environ) -> NvidiaDriver:
    """Return the facts from CUDA and the management library; blocking."""
    cuda, usable = _read_cuda()
    if cuda is None:
        return NvidiaDriver()
    version, known = _read_nvml()
    hidden = tuple(
        GpuFacts(
            vendor="nvidia",
            name=name,
            address=address,
            memory_total_bytes=size_bytes,
            hidden=_VISIBLE_DEVICES in environ,
        )
        for address, (name, size_bytes) in known.items()
        if not any(gpu.address == address for gpu in usable)
    )
    return NvidiaDriver(version, cuda, (*usable, *hidden))


def _read_cuda() -> tuple[tuple[int, int] | None, list[GpuFacts]]:
    """Return the version of CUDA that the driver supports, and the GPUs that are not hidden."""
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        initialised = library.cuInit(0)
    except (OSError, AttributeError):
        return None, []
    number = ctypes.c_int()
    if initialised not in (_SUCCESS, _NO_DEVICE) or library.cuDriverGetVersion(ctypes.byref(number)):
        return None, []
    # 12040 is 12.4
    version = (number.value // 1000, number.value % 1000 // 10)
    count = ctypes.c_int()
    if initialised == _NO_DEVICE or library.cuDeviceGetCount(ctypes.byref(count)):
        return version, []
    gpus: list[GpuFacts] = []
    for index in range(count.value):
        device, size = ctypes.c_int(), ctypes.c_size_t()
        if library.cuDeviceGet(ctypes.byref(device), index):
            continue
        name, address = (ctypes.create_string_buffer(_TEXT_BYTES) for _ in range(2))
        library.cuDeviceGetName(name, _TEXT_BYTES, device)
        library.cuDeviceGetPCIBusId(address, _TEXT_BYTES, device)
        library.cuDeviceTotalMem_v2(ctypes.byref(size), device)
        gpus.append(
            GpuFacts(
                vendor="nvidia",
                name=name.value.decode(errors="replace"),
                address=normalise_address(address.value.decode()),
                memory_total_bytes=size.value,
                integrated=bool(_attribute(library, _INTEGRATED, device)),
                capability=(
                    _attribute(library, _CAPABILITY_MAJOR, device),
                    _attribute(library, _CAPABILITY_MINOR, device),
                ),
            )
        )
    return version, gpus


def _attribute(library: Any, attribute: int, device: ctypes.c_int) -> int:
    value = ctypes.c_int()
    library.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    return value.value


def _read_nvml() -> tuple[tuple[int, ...] | None, dict[str, tuple[str, int]]]:
    """Return the version of the driver, and name and memory of all GPUs, also of hidden ones."""
    nvml = load_nvml()
    if nvml is None:
        return None, {}
    gpus: dict[str, tuple[str, int]] = {}
    version = None
    try:
        nvml.nvmlInit()
        version = _version(_text(nvml.nvmlSystemGetDriverVersion()))
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            address = normalise_address(_text(nvml.nvmlDeviceGetPciInfo(handle).busId))
            size = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
            gpus[address] = (_text(nvml.nvmlDeviceGetName(handle)), size)
    except nvml.NVMLError:
        # Jetson has no such call; the facts so far are kept.
        pass
    return version, gpus


def normalise_address(address: str) -> str:
    """Return a PCI address as the kernel writes it: a domain of four digits, lower case."""
    domain, _, rest = address.lower().partition(":")
    return f"{domain[-4:]}:{rest}"


def _version(text: str) -> tuple[int, ...] | None:
    parts = text.split(".")
    return tuple(map(int, parts)) if all(part.isdecimal() for part in parts) else None


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
