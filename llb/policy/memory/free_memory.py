"""Amounts of RAM and VRAM: needed, held, free. Pure."""

from __future__ import annotations

import itertools

from msgspec import Struct
from msgspec.structs import replace

# After a load that ran out of memory: the share of it that the next plan uses, and the loads on GPUs.
FAILED_LOAD_SHARE = 0.85
MAX_FAILED_GPU_LOADS = 3


class Memory(Struct, frozen=True):
    """Amount of RAM, and of VRAM of each GPU, that something needs or holds."""

    ram_bytes: int = 0
    vram_bytes: tuple[int, ...] = ()

    @property
    def total_vram_bytes(self) -> int:
        return sum(self.vram_bytes)

    @property
    def total_bytes(self) -> int:
        return self.ram_bytes + self.total_vram_bytes

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.ram_bytes + other.ram_bytes, _add(self.vram_bytes, other.vram_bytes))


class FreeMemory(Struct, frozen=True):
    """Memory that is free; negative if more is reserved than exists.

    `is_shared`: the GPU uses the RAM of the host (Apple silicon, GB10, Jetson, integrated GPUs). VRAM is then
    a permission to use a part of `ram_bytes`, and what is in VRAM counts against both.
    """

    ram_bytes: int = 0
    vram_bytes: tuple[int, ...] = ()
    is_shared: bool = False

    def with_released(self, *released: Memory) -> FreeMemory:
        """Return what is free once these are released."""
        total = sum(released, Memory())
        return self - Memory(-total.ram_bytes, tuple(-size for size in total.vram_bytes))

    def __sub__(self, reserved: Memory) -> FreeMemory:
        ram_bytes = reserved.total_bytes if self.is_shared else reserved.ram_bytes
        vram_bytes = _add(self.vram_bytes, tuple(-size for size in reserved.vram_bytes))
        return replace(self, ram_bytes=self.ram_bytes - ram_bytes, vram_bytes=vram_bytes)

    def reduced(self, failures: int, failed: Memory | None = None) -> FreeMemory:
        """Return what a plan may use after this number of loads that ran out of memory; `failed` is what the
        last of them was to take.

        Each leaves 85 % of what is free, and of what it did not get: less was free than is known here. After
        three the GPUs are given up, whose memory others may use too.
        """
        share = FAILED_LOAD_SHARE**failures
        gpu_share = share if failures < MAX_FAILED_GPU_LOADS else 0
        failed = failed or Memory()
        # It is not known whether RAM or VRAM was short. With layers on GPUs it is rarely the RAM.
        failed_ram_bytes = 0 if failed.total_vram_bytes else failed.ram_bytes
        pairs = itertools.zip_longest(self.vram_bytes, failed.vram_bytes[: len(self.vram_bytes)], fillvalue=0)
        return replace(
            self,
            ram_bytes=_reduce(self.ram_bytes, share, failed_ram_bytes),
            vram_bytes=tuple(_reduce(size, gpu_share, failed_bytes) for size, failed_bytes in pairs),
        )

    def covers(self, required: Memory) -> bool:
        """Return whether `required` fits; what is not required may be negative."""
        ram_bytes = required.total_bytes if self.is_shared else required.ram_bytes
        pairs = itertools.zip_longest(required.vram_bytes, self.vram_bytes, fillvalue=0)
        return (ram_bytes <= 0 or ram_bytes <= self.ram_bytes) and all(
            needed <= 0 or needed <= free for needed, free in pairs
        )


def _reduce(size_bytes: int, share: float, failed_bytes: int) -> int:
    reduced = int(size_bytes * share)
    return min(reduced, int(failed_bytes * FAILED_LOAD_SHARE)) if failed_bytes else reduced


def _add(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a + b for a, b in itertools.zip_longest(first, second, fillvalue=0))
