"""NVIDIA's management library: GPUs of the driver, whether or not the engine can use them."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from llb.hardware.devices import ComputeDevice
from llb.hardware.nvml_library import load_nvml
from llb.texts.coded_text import CodedText

log = logging.getLogger(__name__)


class NvidiaGpu(Struct, frozen=True):
    """GPU of the NVIDIA driver, whether or not the engine can use it."""

    name: str
    pci_address: str
    memory_total_bytes: int
    memory_free_bytes: int
    handle: Any

    def matches_device(self, device: ComputeDevice) -> bool:
        """Return whether `device` is this GPU, by PCI address or else by name."""
        if self.pci_address and device.device_id:
            return _normalise_pci_address(self.pci_address) == _normalise_pci_address(device.device_id)
        return device.description == self.name

    def is_usable_by(self, devices: Sequence[ComputeDevice]) -> bool:
        """Return whether this GPU is one of the engine's `devices`."""
        return any(self.matches_device(device) for device in devices)


class GpuUtilisation(Struct, frozen=True):
    """Means over all GPUs, between 0 and 1; None without a measurement."""

    usage: float | None = None
    memory_usage: float | None = None
    free_bytes: tuple[int | None, ...] = ()


class Nvml:
    """NVIDIA's management library. Blocking; call an instance from one thread only."""

    def __init__(self, library: Any, gpus: tuple[NvidiaGpu, ...], problems: tuple[str, ...]) -> None:
        self._library = library
        self.gpus = gpus
        self.problems = problems

    @classmethod
    def open(cls) -> Nvml:
        """Find the GPUs: none without the library; a failing library is reported in `problems`."""
        library = load_nvml()
        if library is None:
            return cls(None, (), ())
        try:
            library.nvmlInit()
        except library.NVMLError as error:
            is_absent = isinstance(error, library.NVMLError_LibraryNotFound)
            problem = CodedText(
                "gpu_driver_broken",
                "The NVIDIA driver does not work: {detail}. Reinstall it, or restart after an update.",
                detail=str(error),
            )
            return cls(None, (), () if is_absent else (problem,))
        gpus: list[NvidiaGpu] = []
        problems: list[str] = []
        try:
            count = library.nvmlDeviceGetCount()
        except library.NVMLError as error:
            count = 0
            problems.append(
                CodedText(
                    "gpu_driver_no_list",
                    "The NVIDIA driver cannot list its GPUs: {detail}.",
                    detail=str(error),
                )
            )
        for index in range(count):
            try:
                gpus.append(_nvidia_gpu(library, index))
            except library.NVMLError as error:
                problems.append(
                    CodedText(
                        "gpu_silent",
                        "GPU {index} does not answer: {detail}.",
                        index=index,
                        detail=str(error),
                    )
                )
        return cls(library, tuple(gpus), tuple(problems))

    def read_utilisation(self) -> GpuUtilisation:
        """Return the present utilisation of the GPUs that answer."""
        usages: list[float] = []
        free: list[int | None] = []
        used_bytes = total_bytes = 0
        for gpu in self.gpus:
            free.append(None)
            try:
                memory = self._library.nvmlDeviceGetMemoryInfo(gpu.handle)
                used_bytes += memory.total - memory.free
                total_bytes += memory.total
                free[-1] = int(memory.free)
                usages.append(self._library.nvmlDeviceGetUtilizationRates(gpu.handle).gpu / 100)
            except self._library.NVMLError as error:
                log.debug("GPU %s does not answer: %s", gpu.name, error)
        return GpuUtilisation(
            usage=sum(usages) / len(usages) if usages else None,
            memory_usage=used_bytes / total_bytes if total_bytes else None,
            free_bytes=tuple(free),
        )

    def close(self) -> None:
        """Shut the library down."""
        if self._library is not None:
            try:
                self._library.nvmlShutdown()
            except self._library.NVMLError as error:
                log.debug("NVML shutdown: %s", error)


def _nvidia_gpu(library: Any, index: int) -> NvidiaGpu:
    handle = library.nvmlDeviceGetHandleByIndex(index)
    memory = library.nvmlDeviceGetMemoryInfo(handle)
    return NvidiaGpu(
        name=_to_text(library.nvmlDeviceGetName(handle)),
        pci_address=_to_text(library.nvmlDeviceGetPciInfo(handle).busId),
        memory_total_bytes=int(memory.total),
        memory_free_bytes=int(memory.free),
        handle=handle,
    )


def _to_text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _normalise_pci_address(address: str) -> str:
    """Return a PCI address in one format: the domain has eight digits in NVML, four in llama.cpp."""
    return re.sub(r"^0+(?=[0-9a-f])", "", address.lower())
