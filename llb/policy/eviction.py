"""Eviction policy: the idle engines to unload so that another one fits, least recently used first. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from llb.policy.memory import FreeMemory, Memory


class LoadedEngine(Struct, frozen=True):
    """Engine that occupies memory. `last_used` is in seconds of any clock, the same for all engines."""

    model_id: str
    memory: Memory
    is_busy: bool
    is_pinned: bool
    last_used: float

    @property
    def is_evictable(self) -> bool:
        return not self.is_busy and not self.is_pinned


def select_victims(
    required: Memory, free: FreeMemory, engines: Sequence[LoadedEngine]
) -> tuple[str, ...] | None:
    """Return the engines to unload for `required`, () if it fits already, None if it cannot fit.

    Busy and pinned engines are never chosen, nor engines whose memory is not needed.
    """
    victims: list[LoadedEngine] = []
    for engine in sorted(engines, key=lambda engine: (engine.last_used, engine.model_id)):
        if free.covers(required):
            break
        if engine.is_evictable:
            victims.append(engine)
            free = free.with_released(engine.memory)
    if not free.covers(required):
        return None
    # Keep engines whose memory is of the wrong kind, or became superfluous by a later, larger one.
    for engine in tuple(reversed(victims)):
        if (free - engine.memory).covers(required):
            victims.remove(engine)
            free -= engine.memory
    return tuple(engine.model_id for engine in victims)
