"""Which nodes hold a model, and whether it fits anywhere. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from llb.wire import Fit, Verdict


class NodeCapacity(Struct, frozen=True, kw_only=True):
    """What one node offers, in bytes. `vram_bytes` is 0 on a host without a usable GPU."""

    node_id: str
    node_name: str
    budget_bytes: int
    vram_bytes: int
    disk_free_bytes: int
    draining: bool = False
    has_files: bool = False  # it has the model's files already, or part of them
    has_all_files: bool = False  # it has all of them
    is_briefly_offline: bool = (
        False  # offline, but not for long: what it holds counts, and nothing new goes there
    )


def largest_node(capacities: Sequence[NodeCapacity]) -> NodeCapacity | None:
    """The node with the greatest memory budget; the name decides between equals."""
    return min(capacities, key=lambda room: (-room.budget_bytes, room.node_name), default=None)


def check_fit(required_bytes: int, capacities: Sequence[NodeCapacity]) -> Fit:
    """Whether a model that needs `required_bytes` of memory runs on the best of `rooms`."""
    best = largest_node(capacities)
    if best is None:
        return Fit(
            verdict=Verdict.UNKNOWN, required_bytes=required_bytes, available_bytes=None, node_name=None
        )
    in_vram = [room for room in capacities if room.vram_bytes >= required_bytes]
    if in_vram:
        best = max(in_vram, key=lambda room: (room.vram_bytes, room.budget_bytes))
        verdict = Verdict.FITS
    elif best.budget_bytes < required_bytes:
        verdict = Verdict.TOO_LARGE
    else:
        plain = [room for room in capacities if room.vram_bytes == 0 and room.budget_bytes >= required_bytes]
        verdict = Verdict.FITS if plain else Verdict.TIGHT
        best = largest_node(plain) or best
    return Fit(
        verdict=verdict,
        required_bytes=required_bytes,
        available_bytes=best.budget_bytes,
        node_name=best.node_name,
    )


def place_replicas(
    required_bytes: int, size_bytes: int, replicas: int | None, capacities: Sequence[NodeCapacity]
) -> frozenset[str]:
    """The ids of the nodes that are to hold a model: all that it fits on, or the `replicas` roomiest of them.

    A node that holds the files keeps its claim whatever its free disk: they are already there. So does one that is away:
    a host that reboots shall not make gigabytes travel.
    """
    able = [
        room
        for room in capacities
        if room.budget_bytes >= required_bytes
        and (
            room.has_files
            or (not room.draining and not room.is_briefly_offline and room.disk_free_bytes >= size_bytes)
        )
    ]
    able.sort(
        key=lambda room: (not room.has_all_files, not room.has_files, -room.budget_bytes, room.node_name)
    )
    return frozenset(room.node_id for room in able[:replicas])
