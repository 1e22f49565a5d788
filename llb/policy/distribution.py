"""Distribution policy: the peers from which each node copies a model, so that the Hub sends it once. Pure.

The nodes have a total order, and each copies only from nodes before it, so there are no cycles. Each node
prefers the peer with the fewest followers. With one holder this yields a chain, in which each network link
carries the file once in each direction. No other topology is faster if all links have the same bandwidth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct


class ReplicaHolder(Struct, frozen=True, kw_only=True):
    """Online node that holds a model or is assigned to; `join_order` is its rank among the nodes."""

    node_id: str
    join_order: int
    is_ready: bool
    # Other nodes can connect to it.
    is_reachable: bool
    # The balancer's own node.
    is_local: bool = False
    # Its replica is in the state Error.
    has_failed: bool = False
    # It has sent wrong bytes of this model.
    sent_bad_data: bool = False


def assign_peer_sources(holders: Sequence[ReplicaHolder]) -> Mapping[str, tuple[str, ...]]:
    """Return the peers from which each node without the model copies it, best first.

    A node without peers is a seeder and downloads from the Hub: the first node while no node has the model,
    and every node if none is reachable. The order is independent of download progress, so sources stay the
    same while downloads run.
    """
    # Number of followers of each possible source, in distribution order.
    followers: dict[str, int] = {}
    sources: dict[str, tuple[str, ...]] = {}
    for holder in sorted(holders, key=_distribution_order):
        if not holder.is_ready:
            sources[holder.node_id] = _pick_sources(followers)
        if holder.is_reachable and not holder.has_failed and not holder.sent_bad_data:
            followers[holder.node_id] = 0
    return sources


def _pick_sources(followers: dict[str, int]) -> tuple[str, ...]:
    if not followers:
        return ()
    # min() returns the first of equals.
    first = min(followers, key=followers.__getitem__)
    followers[first] += 1
    return (first, *(node_id for node_id in followers if node_id != first))


def _distribution_order(holder: ReplicaHolder) -> tuple[bool, bool, bool, bool, int]:
    # Last, since no node may copy from it or wait for it.
    is_excluded = holder.has_failed or holder.sent_bad_data
    return (not holder.is_ready, is_excluded, not holder.is_reachable, not holder.is_local, holder.join_order)
