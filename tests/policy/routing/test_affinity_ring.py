"""Affinity ring: which node a conversation prefers, and which places move when nodes change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llb.policy.routing import (
    RING_POSITIONS,
)
from tests.policy.routing.candidates import NODE_IDS, rank_nodes, speed


def firsts(node_ids: Sequence[str], grades: Sequence[int], places: int = RING_POSITIONS) -> list[str]:
    """Return the preferred node of each of the first positions of the ring."""
    return [node_ids[rank_nodes(node_ids, grades, place)[0]] for place in range(places)]


rings = st.lists(
    st.tuples(st.sampled_from(NODE_IDS), st.integers(-12, 12)), min_size=2, max_size=24,
    unique_by=lambda node: node[0]
)  # fmt: skip


@given(rings, st.data())
def test_who_leaves_moves_its_own_places_only(ring: list[tuple[str, int]], data: st.DataObject) -> None:
    gone = data.draw(st.integers(0, len(ring) - 1))
    rest = [*ring[:gone], *ring[gone + 1 :]]
    before = firsts([name for name, _ in ring], [grade for _, grade in ring], places=64)
    after = firsts([name for name, _ in rest], [grade for _, grade in rest], places=64)
    for whose, then in zip(before, after, strict=True):
        assert whose in (then, ring[gone][0])


@pytest.mark.parametrize("count", [2, 3, 4, 16, 64])
def test_a_node_more_or_less_moves_at_most_two_shares(count: int) -> None:
    node_ids = [f"node-{number}" for number in range(count)]
    owners = Counter(firsts(node_ids, [0] * count))
    assert len(owners) == count
    assert max(owners.values()) / RING_POSITIONS <= 2 / count


def test_places_in_proportion_to_the_speed() -> None:
    grades = [speed(None, tokens_per_s).grade for tokens_per_s in (100.0, 200.0, 400.0)]
    owners = Counter(firsts("abc", [grade for grade in grades if grade is not None]))
    for node_id, share in (("a", 1 / 7), ("b", 2 / 7), ("c", 4 / 7)):
        assert owners[node_id] / RING_POSITIONS == pytest.approx(share, abs=0.05)
