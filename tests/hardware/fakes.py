"""Hosts of the tests: devices of the engine, a fake NVML, facts."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import msgspec

from llb.hardware import (
    ComputeDevice,
    HardwareInfo,
    HardwareProbe,
)
from llb.hardware.devices import EngineDevices
from llb.policy.engine_build.choice import GpuFacts, HostFacts
from llb.wire import Hardware

GB = 10**9

CPU = ComputeDevice(
    name="CPU", description="A Processor", kind="cpu", memory_total_bytes=GB, memory_free_bytes=GB
)


def gpu(name: str = "CUDA0", size: int = 24 * GB, kind: str = "gpu", **more: str) -> ComputeDevice:
    return ComputeDevice(
        name=name, description=name, kind=kind, memory_total_bytes=size, memory_free_bytes=size, **more
    )


class FakeNvml(ModuleType):
    """Fake pynvml for machines without an NVIDIA driver. Each GPU is (name, PCI address, total, used)."""

    class NVMLError(Exception):
        pass

    class NVMLError_LibraryNotFound(NVMLError):  # pynvml's name
        pass

    def __init__(
        self, gpus: list[tuple[str | bytes, str, int, int]], *, init: Exception | None = None
    ) -> None:
        super().__init__("pynvml")
        self.gpus = [*gpus]
        self.init = init
        self.lost: set[int] = set()
        self.hang: threading.Event | None = None
        self.shutdowns = 0

    def _alive(self, index: int) -> int:
        if index in self.lost:
            raise self.NVMLError("GPU is lost")
        return index

    def nvmlInit(self) -> None:
        if self.init is not None:
            raise self.init

    def nvmlShutdown(self) -> None:
        self.shutdowns += 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return self._alive(index)

    def nvmlDeviceGetName(self, index: int) -> str | bytes:
        return self.gpus[self._alive(index)][0]

    def nvmlDeviceGetPciInfo(self, index: int) -> SimpleNamespace:
        return SimpleNamespace(busId=self.gpus[self._alive(index)][1])

    def nvmlDeviceGetMemoryInfo(self, index: int) -> SimpleNamespace:
        _, _, total, used = self.gpus[self._alive(index)]
        return SimpleNamespace(total=total, free=total - used)

    def nvmlDeviceGetUtilizationRates(self, index: int) -> SimpleNamespace:
        if self.hang is not None:
            self.hang.wait(20)
        self._alive(index)
        return SimpleNamespace(gpu=50)


TWO_GPUS: list[tuple[str | bytes, str, int, int]] = [
    ("NVIDIA RTX 4090", "00000000:01:00.0", 24 * GB, 6 * GB),
    (b"NVIDIA GTX 1060", "00000000:02:00.0", 6 * GB, 0),
]


@contextlib.asynccontextmanager
async def machine(
    *devices: ComputeDevice, build: str = "cpu", gpus: Sequence[GpuFacts] = (), **facts: Any
) -> AsyncIterator[HardwareProbe]:
    """Return the info of a host whose engine is of this build and lists these devices, with these GPUs."""
    answer = msgspec.json.encode(EngineDevices(build=build, devices=devices)).decode()
    found = HostFacts(
        **{"system": "linux", "machine": "x86_64", "glibc": (2, 39), "gpus": tuple(gpus)} | facts
    )

    async def query_facts() -> HostFacts:
        return found

    made = HardwareProbe(
        devices_command=[sys.executable, "-I", "-S", "-c", f"print({answer!r})"], query_facts=query_facts
    )
    try:
        yield made
    finally:
        made.close()


def facts(*devices: ComputeDevice, ram: int = 10 * GB) -> HardwareInfo:
    return HardwareInfo(Hardware(cpu="x", cpu_count=1, memory_total_bytes=ram), devices)


def add_pci_device(
    root: Path, address: str, vendor: str, device: str, kind: str = "030000", **files: str
) -> None:
    folder = root / "sys/bus/pci/devices" / address
    folder.mkdir(parents=True)
    for name, text in {
        "vendor": f"0x{vendor}",
        "device": f"0x{device}",
        "class": f"0x{kind}",
        **files,
    }.items():
        (folder / name).write_text(f"{text}\n")


def add_file(root: Path, path: str, text: str = "") -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)
