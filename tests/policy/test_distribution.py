"""Distribution policy: the sources of each node."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from llb.policy.distribution import ReplicaHolder, assign_peer_sources


def holder(node_id: str, **fields: Any) -> ReplicaHolder:
    return ReplicaHolder(
        **{"node_id": node_id, "join_order": ord(node_id), "is_ready": False, "is_reachable": True, **fields}
    )


def test_one_node_takes_the_hub_and_the_others_make_a_chain() -> None:
    found = assign_peer_sources([holder("c"), holder("a"), holder("b")])
    assert found == {"a": (), "b": ("a",), "c": ("b", "a")}


def test_the_balancers_own_node_comes_first() -> None:
    assert assign_peer_sources([holder("a"), holder("z", is_local=True)]) == {"z": (), "a": ("z",)}


def test_who_has_it_comes_before_all_and_needs_nobody() -> None:
    found = assign_peer_sources([holder("a", is_local=True), holder("b"), holder("c", is_ready=True)])
    assert found == {"a": ("c",), "b": ("a", "c")}


def test_two_that_have_it_share_the_work() -> None:
    found = assign_peer_sources(
        [holder("a", is_ready=True), holder("b", is_ready=True), holder("c"), holder("d"), holder("e")]
    )
    assert [found[node_id][0] for node_id in "cde"] == ["a", "b", "c"]


def test_who_cannot_be_dialled_copies_and_is_not_copied_from() -> None:
    found = assign_peer_sources(
        [holder("a", is_reachable=False), holder("b"), holder("c", is_reachable=False)]
    )
    assert found == {"b": (), "a": ("b",), "c": ("b",)}


def test_where_nobody_can_be_dialled_everybody_takes_the_hub() -> None:
    assert assign_peer_sources([holder("a", is_reachable=False), holder("b", is_reachable=False)]) == {
        "a": (),
        "b": (),
    }
    assert assign_peer_sources([holder("a", is_reachable=False, is_ready=True), holder("b")]) == {"b": ()}


@pytest.mark.parametrize("fact", ["has_failed", "sent_bad_data"])
def test_nobody_waits_for_a_node_that_has_failed_or_sent_wrong_bytes(fact: str) -> None:
    found = assign_peer_sources([holder("a", **{fact: True}), holder("b"), holder("c")])
    assert found == {"b": (), "c": ("b",), "a": ("c", "b")}


# --- properties --------------------------------------------------------------------------------------

FLAGS = st.fixed_dictionaries(
    {name: st.booleans() for name in ("is_ready", "is_reachable", "has_failed", "sent_bad_data")}
)


@st.composite
def clusters(draw: st.DrawFn) -> list[ReplicaHolder]:
    facts = draw(st.lists(FLAGS, max_size=12))
    joined = draw(st.permutations(range(len(facts))))
    holders = [
        ReplicaHolder(node_id=f"n{number}", join_order=number, **fact)
        for number, fact in zip(joined, facts, strict=True)
    ]
    own = draw(st.booleans())
    if own and holders:
        holders[0] = structs.replace(holders[0], is_local=True)
    return holders


def is_possible_source(each: ReplicaHolder) -> bool:
    return each.is_reachable and not each.has_failed and not each.sent_bad_data


@given(clusters())
def test_nobody_follows_his_own_followers_and_all_reach_a_source(holders: list[ReplicaHolder]) -> None:
    found = assign_peer_sources(holders)
    known = {each.node_id: each for each in holders}
    assert set(found) == {each.node_id for each in holders if not each.is_ready}
    rank: dict[str, int] = {}

    def depth(node_id: str, below: frozenset[str]) -> int:
        assert node_id not in below, "in a circle"
        if node_id not in rank:
            above = [depth(source, below | {node_id}) for source in found.get(node_id, ())]
            rank[node_id] = 1 + max(above, default=-1)
        return rank[node_id]

    for node_id, before in found.items():
        assert all(is_possible_source(known[source]) for source in before)
        assert len(set(before)) == len(before)
        depth(node_id, frozenset())
        here = node_id
        while found.get(here):
            here = found[here][0]
        assert known[here].is_ready or not found[here]


@given(clusters())
def test_the_followers_are_shared_out_evenly(holders: list[ReplicaHolder]) -> None:
    followers = Counter({each.node_id: 0 for each in holders if is_possible_source(each)})
    followers.update(before[0] for before in assign_peer_sources(holders).values() if before)
    assert not followers or max(followers.values()) <= min(followers.values()) + 1


@given(clusters())
def test_there_is_one_seeder_unless_nobody_can_be_copied_from(holders: list[ReplicaHolder]) -> None:
    seeders = [node_id for node_id, before in assign_peer_sources(holders).items() if not before]
    if any(is_possible_source(each) for each in holders):
        assert len(seeders) <= 1
        assert not seeders or not any(each.is_ready and is_possible_source(each) for each in holders)


@given(clusters(), FLAGS)
def test_a_node_changes_nothing_for_those_before_it(
    holders: list[ReplicaHolder], fact: dict[str, bool]
) -> None:
    newcomer = ReplicaHolder(node_id="late", join_order=len(holders), **{**fact, "is_ready": False})
    before, after = assign_peer_sources(holders), assign_peer_sources([*holders, newcomer])
    in_order = list(after)
    for node_id in in_order[: in_order.index("late")]:
        assert after[node_id] == before[node_id]


@given(st.integers(1, 12))
def test_equal_nodes_that_come_one_by_one_leave_the_chain_as_it_is(count: int) -> None:
    chain = [holder(chr(ord("a") + number)) for number in range(count)]
    for size in range(1, count):
        before, after = assign_peer_sources(chain[:size]), assign_peer_sources(chain[: size + 1])
        assert {node_id: after[node_id] for node_id in before} == before
