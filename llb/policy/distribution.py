"""From whom each node copies a model, so that the Hub is asked once. Pure.

The nodes are put into one order, and each copies from nodes before it only: nobody can follow, over however many others,
somebody who follows it. Each follows the one with the fewest followers. With one node to begin with that makes a chain, in
which every line carries the file once in each direction: nothing is faster where all lines are equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct


class ReplicaHolder(Struct, frozen=True, kw_only=True):
    """A node that is online and holds a model, or is to hold it. `joined` is its place in the order of joining."""

    node_id: str
    join_order: int
    is_ready: bool
    is_reachable: bool  # the others can reach it
    is_local: bool = False  # it is the balancer's own
    has_failed: bool = False  # its replica is in Error
    sent_bad_data: bool = False  # it has sent wrong bytes of this model


def assign_peer_sources(holders: Sequence[ReplicaHolder]) -> Mapping[str, tuple[str, ...]]:
    """The nodes that each node which is not ready copies from, best first.

    Who has none is a seeder and takes the Hub: the first in order while nobody has the model, each where none can be dialled.
    The order holds nothing that moves with a download, so that none changes its source while all goes well.
    """
    followers: dict[str, int] = {}  # of those who can be copied from, in order
    found: dict[str, tuple[str, ...]] = {}
    for holder in sorted(holders, key=_distribution_order):
        if not holder.is_ready:
            found[holder.node_id] = _pick_sources(followers)
        if holder.is_reachable and not holder.has_failed and not holder.sent_bad_data:
            followers[holder.node_id] = 0
    return found


def _pick_sources(followers: dict[str, int]) -> tuple[str, ...]:
    if not followers:
        return ()
    first = min(followers, key=followers.__getitem__)  # the earliest of equals
    followers[first] += 1
    return (first, *(node_id for node_id in followers if node_id != first))


def _distribution_order(holder: ReplicaHolder) -> tuple[bool, bool, bool, bool, int]:
    idle = holder.has_failed or holder.sent_bad_data  # last: nobody follows it, and nobody must wait for it
    return (not holder.is_ready, idle, not holder.is_reachable, not holder.is_local, holder.join_order)
