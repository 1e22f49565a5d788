"""Compute devices of the engine, and the memory that engines may use on them."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from llb.policy.memory import FreeMemory
from llb.wire import Hardware

# Share of the RAM that engines may use without --memory-limit.
RAM_SHARE = 0.8
# Kept free on each GPU with memory of its own, for the desktop and for estimates that are too small.
VRAM_MARGIN_BYTES = 256 * 2**20
# GPUs whose contexts are listed, in 10⁹ bytes, and the RAM of their host.
USUAL_CARDS_GB = (8, 16, 24)
USUAL_CARD_RAM_BYTES = 64_000_000_000


class ComputeDevice(msgspec.Struct, frozen=True, kw_only=True):
    """Compute device of the installed llama.cpp; `kind` is cpu, gpu, igpu or accel."""

    name: str
    description: str
    kind: str
    # PCI address, if it has one.
    device_id: str = ""
    memory_total_bytes: int
    memory_free_bytes: int


class EngineDevices(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `--devices`: kind of the build (cpu, cuda, rocm, vulkan, metal), and its devices."""

    build: str = "cpu"
    devices: tuple[ComputeDevice, ...] = ()


class MemoryBudget(Struct, frozen=True):
    """Memory for all engines together: RAM, and VRAM per usable device.

    `is_shared`: the devices use the RAM of the host, and `vram_bytes` is the part of it that they may take.
    """

    ram_bytes: int
    vram_bytes: tuple[int, ...] = ()
    is_shared: bool = False

    @classmethod
    def of_described_host(cls, ram_bytes: int, vram_bytes: Sequence[int] = ()) -> MemoryBudget:
        """Return the budget of a host with this much RAM and these GPUs, on which nothing else runs."""
        gpus = tuple(max(0, size - VRAM_MARGIN_BYTES) for size in vram_bytes)
        return cls(int(ram_bytes * RAM_SHARE), gpus)

    def free_memory(self) -> FreeMemory:
        """Return this budget as memory of which nothing is reserved."""
        return FreeMemory(self.ram_bytes, self.vram_bytes, self.is_shared)

    @property
    def total_bytes(self) -> int:
        return self.ram_bytes + (0 if self.is_shared else sum(self.vram_bytes))


def usual_cards() -> tuple[tuple[int, FreeMemory], ...]:
    """Return GPUs of usual sizes, in 10⁹ bytes, each with the free memory of a host that has one."""
    return tuple(
        (size, MemoryBudget.of_described_host(USUAL_CARD_RAM_BYTES, (size * 10**9,)).free_memory())
        for size in USUAL_CARDS_GB
    )


class HardwareInfo(Struct, frozen=True):
    """Result of a probe. `problems` are sentences for people, with a remedy."""

    hardware: Hardware
    devices: tuple[ComputeDevice, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def gpus(self) -> tuple[ComputeDevice, ...]:
        """Devices of `memory_budget`, in its order."""
        dedicated = tuple(device for device in self.devices if device.kind == "gpu")
        return dedicated or tuple(device for device in self.devices if device.kind == "igpu")

    def memory_budget(self, limit_bytes: int | None = None) -> MemoryBudget:
        """Return the free VRAM of the engine's devices, less a margin, and 80 % of RAM.

        `limit_bytes` caps the sum, VRAM first. Call it while no engine of llb occupies VRAM.
        """
        ram_total = self.hardware.memory_total_bytes
        ram = int(ram_total * RAM_SHARE)
        gpus = [device for device in self.devices if device.kind == "gpu"]
        shared = [device.memory_total_bytes for device in self.devices if device.kind == "igpu"]
        if _has_unified_memory():
            gpus, shared = [], [device.memory_total_bytes for device in gpus] + shared
        vram = [max(0, device.memory_free_bytes - VRAM_MARGIN_BYTES) for device in gpus]
        if limit_bytes is not None:
            vram = _cap_total(limit_bytes, vram)
            ram = min(ram_total, limit_bytes - sum(vram))
        if not gpus and shared:
            return MemoryBudget(ram, tuple(_cap_total(ram, shared)), is_shared=True)
        return MemoryBudget(ram, tuple(vram))


def _cap_total(limit_bytes: int, sizes: Sequence[int]) -> list[int]:
    """Cap `sizes` in order so that their sum is at most `limit_bytes`."""
    capped: list[int] = []
    for size in sizes:
        capped.append(max(0, min(size, limit_bytes - sum(capped))))
    return capped


def _has_unified_memory() -> bool:
    return sys.platform == "darwin" and platform.machine() == "arm64"
