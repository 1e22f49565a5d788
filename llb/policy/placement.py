"""Placement policy: the nodes that hold a model, and whether it fits on any. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from llb.wire import Fit, Verdict


class NodeCapacity(Struct, frozen=True, kw_only=True):
    """Capacity of a node for one model, in bytes. `vram_bytes` is 0 on a host without a usable GPU."""

    node_id: str
    node_name: str
    budget_bytes: int
    vram_bytes: int
    disk_free_bytes: int
    draining: bool = False
    # It has at least a part of the model's files.
    has_files: bool = False
    has_all_files: bool = False
    # Offline for a short time: it keeps its models but gets no new ones.
    is_briefly_offline: bool = False


def largest_node(capacities: Sequence[NodeCapacity]) -> NodeCapacity | None:
    """Return the node with the largest memory budget, the first by name of equals."""
    return min(capacities, key=lambda node: (-node.budget_bytes, node.node_name), default=None)


def check_fit(required_bytes: int, capacities: Sequence[NodeCapacity]) -> Fit:
    """Return whether a model that needs `required_bytes` of memory fits on the best node."""
    best = largest_node(capacities)
    if best is None:
        return Fit(
            verdict=Verdict.UNKNOWN, required_bytes=required_bytes, available_bytes=None, node_name=None
        )
    vram_nodes = [node for node in capacities if node.vram_bytes >= required_bytes]
    if vram_nodes:
        best = max(vram_nodes, key=lambda node: (node.vram_bytes, node.budget_bytes))
        verdict = Verdict.FITS
    elif best.budget_bytes < required_bytes:
        verdict = Verdict.TOO_LARGE
    else:
        cpu_nodes = [
            node for node in capacities if node.vram_bytes == 0 and node.budget_bytes >= required_bytes
        ]
        verdict = Verdict.FITS if cpu_nodes else Verdict.TIGHT
        best = largest_node(cpu_nodes) or best
    return Fit(
        verdict=verdict,
        required_bytes=required_bytes,
        available_bytes=best.budget_bytes,
        node_name=best.node_name,
    )


def place_replicas(
    required_bytes: int, size_bytes: int, replicas: int | None, capacities: Sequence[NodeCapacity]
) -> frozenset[str]:
    """Return the ids of the nodes to hold a model: all on which it fits, or the `replicas` largest of them.

    A node that has the files keeps them, whatever its free disk space and even when briefly offline: a reboot
    must not cause a transfer of gigabytes.
    """
    eligible = [
        node
        for node in capacities
        if node.budget_bytes >= required_bytes
        and (
            node.has_files
            or (not node.draining and not node.is_briefly_offline and node.disk_free_bytes >= size_bytes)
        )
    ]
    eligible.sort(
        key=lambda node: (not node.has_all_files, not node.has_files, -node.budget_bytes, node.node_name)
    )
    return frozenset(node.node_id for node in eligible[:replicas])
