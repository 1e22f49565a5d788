"""Which engines to unload so that another fits: a pure choice, the least recently used first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Memory:
    """An amount of both kinds of memory. Negative where more is promised than there is."""

    ram_bytes: int = 0
    vram_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        return self.ram_bytes + self.vram_bytes

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.ram_bytes + other.ram_bytes, self.vram_bytes + other.vram_bytes)

    def __sub__(self, other: Memory) -> Memory:
        return Memory(self.ram_bytes - other.ram_bytes, self.vram_bytes - other.vram_bytes)

    def covers(self, need: Memory) -> bool:
        """Whether `need` fits; of a kind that is not needed there may be less than nothing."""
        return (need.ram_bytes <= 0 or need.ram_bytes <= self.ram_bytes) and (
            need.vram_bytes <= 0 or need.vram_bytes <= self.vram_bytes
        )


@dataclass(frozen=True, slots=True)
class Loaded:
    """An engine that holds memory. `last_used` is in seconds of any one clock."""

    model_id: str
    memory: Memory
    busy: bool
    pinned: bool
    last_used: float

    @property
    def evictable(self) -> bool:
        return not self.busy and not self.pinned


def victims(need: Memory, free: Memory, engines: Sequence[Loaded]) -> tuple[str, ...] | None:
    """The idle engines to unload for `need`, least recently used first; none if it fits; None if it cannot be made to fit.

    Never a busy or pinned one, and none whose memory would not help.
    """
    chosen: list[Loaded] = []
    for engine in sorted(engines, key=lambda engine: (engine.last_used, engine.model_id)):
        if free.covers(need):
            break
        if engine.evictable:
            chosen.append(engine)
            free += engine.memory
    if not free.covers(need):
        return None
    # One may be spared whose memory is of the wrong kind, or small beside that of one chosen later.
    for engine in tuple(reversed(chosen)):
        if (free - engine.memory).covers(need):
            chosen.remove(engine)
            free -= engine.memory
    return tuple(engine.model_id for engine in chosen)
