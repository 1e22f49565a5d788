"""Which engines to unload so that another fits: a pure choice, the least recently used first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llb.policy.memory import Memory


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """An engine that holds memory. `last_used` is in seconds of any one clock."""

    model_id: str
    memory: Memory
    is_busy: bool
    is_pinned: bool
    last_used: float

    @property
    def is_evictable(self) -> bool:
        return not self.is_busy and not self.is_pinned


def select_victims(required: Memory, free: Memory, engines: Sequence[LoadedEngine]) -> tuple[str, ...] | None:
    """The idle engines to unload for `need`, least recently used first; none if it fits; None if it cannot be made to fit.

    Never a busy or pinned one, and none whose memory would not help.
    """
    chosen: list[LoadedEngine] = []
    for engine in sorted(engines, key=lambda engine: (engine.last_used, engine.model_id)):
        if free.covers(required):
            break
        if engine.is_evictable:
            chosen.append(engine)
            free += engine.memory
    if not free.covers(required):
        return None
    # One may be spared whose memory is of the wrong kind, or small beside that of one chosen later.
    for engine in tuple(reversed(chosen)):
        if (free - engine.memory).covers(required):
            chosen.remove(engine)
            free -= engine.memory
    return tuple(engine.model_id for engine in chosen)
