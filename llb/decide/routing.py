"""Which node gets a request: a pure choice among the nodes that could take it now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node with a free slot for the model; `loaded` means that its engine holds the weights already."""

    node_id: str
    slots: int
    busy: int
    loaded: bool = True

    @property
    def free(self) -> int:
        return self.slots - self.busy


def choose(candidates: Sequence[Candidate]) -> Candidate | None:
    """A node that has the model loaded before one that would load it, then the least busy share, then the node id."""
    return min(
        (candidate for candidate in candidates if candidate.free > 0),
        key=lambda candidate: (not candidate.loaded, candidate.busy / candidate.slots, candidate.node_id),
        default=None,
    )
