"""Who copies from whom."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from llb.decide.sources import Holder, sources


def holder(node_id: str, **facts: Any) -> Holder:
    return Holder(**{"node_id": node_id, "joined": ord(node_id), "ready": False, "dialable": True, **facts})


def test_one_node_takes_the_hub_and_the_others_make_a_chain() -> None:
    found = sources([holder("c"), holder("a"), holder("b")])
    assert found == {"a": (), "b": ("a",), "c": ("b", "a")}


def test_the_balancers_own_node_comes_first() -> None:
    assert sources([holder("a"), holder("z", local=True)]) == {"z": (), "a": ("z",)}


def test_who_has_it_comes_before_all_and_needs_nobody() -> None:
    found = sources([holder("a", local=True), holder("b"), holder("c", ready=True)])
    assert found == {"a": ("c",), "b": ("a", "c")}


def test_two_that_have_it_share_the_work() -> None:
    found = sources([holder("a", ready=True), holder("b", ready=True), holder("c"), holder("d"), holder("e")])
    assert [found[node_id][0] for node_id in "cde"] == ["a", "b", "c"]


def test_who_cannot_be_dialled_copies_and_is_not_copied_from() -> None:
    found = sources([holder("a", dialable=False), holder("b"), holder("c", dialable=False)])
    assert found == {"b": (), "a": ("b",), "c": ("b",)}


def test_where_nobody_can_be_dialled_everybody_takes_the_hub() -> None:
    assert sources([holder("a", dialable=False), holder("b", dialable=False)]) == {"a": (), "b": ()}
    assert sources([holder("a", dialable=False, ready=True), holder("b")]) == {"b": ()}


@pytest.mark.parametrize("fact", ["failed", "blamed"])
def test_nobody_waits_for_a_node_that_has_failed_or_sent_wrong_bytes(fact: str) -> None:
    found = sources([holder("a", **{fact: True}), holder("b"), holder("c")])
    assert found == {"b": (), "c": ("b",), "a": ("c", "b")}


# --- whatever the nodes are --------------------------------------------------------------------------

FACTS = st.fixed_dictionaries({name: st.booleans() for name in ("ready", "dialable", "failed", "blamed")})


@st.composite
def clusters(draw: st.DrawFn) -> list[Holder]:
    facts = draw(st.lists(FACTS, max_size=12))
    joined = draw(st.permutations(range(len(facts))))
    holders = [
        Holder(node_id=f"n{number}", joined=number, **fact)
        for number, fact in zip(joined, facts, strict=True)
    ]
    own = draw(st.booleans())
    if own and holders:
        holders[0] = structs.replace(holders[0], local=True)
    return holders


def able(each: Holder) -> bool:
    return each.dialable and not each.failed and not each.blamed


@given(clusters())
def test_nobody_follows_his_own_followers_and_all_reach_a_source(holders: list[Holder]) -> None:
    found = sources(holders)
    known = {each.node_id: each for each in holders}
    assert set(found) == {each.node_id for each in holders if not each.ready}
    rank: dict[str, int] = {}

    def depth(node_id: str, below: frozenset[str]) -> int:
        assert node_id not in below, "in a circle"
        if node_id not in rank:
            above = [depth(source, below | {node_id}) for source in found.get(node_id, ())]
            rank[node_id] = 1 + max(above, default=-1)
        return rank[node_id]

    for node_id, before in found.items():
        assert all(able(known[source]) for source in before)
        assert len(set(before)) == len(before)
        depth(node_id, frozenset())
        here = node_id
        while found.get(here):
            here = found[here][0]
        assert known[here].ready or not found[here]


@given(clusters())
def test_the_followers_are_shared_out_evenly(holders: list[Holder]) -> None:
    followers = Counter({each.node_id: 0 for each in holders if able(each)})
    followers.update(before[0] for before in sources(holders).values() if before)
    assert not followers or max(followers.values()) <= min(followers.values()) + 1


@given(clusters())
def test_there_is_one_seeder_unless_nobody_can_be_copied_from(holders: list[Holder]) -> None:
    seeders = [node_id for node_id, before in sources(holders).items() if not before]
    if any(able(each) for each in holders):
        assert len(seeders) <= 1
        assert not seeders or not any(each.ready and able(each) for each in holders)


@given(clusters(), FACTS)
def test_a_node_changes_nothing_for_those_before_it(holders: list[Holder], fact: dict[str, bool]) -> None:
    newcomer = Holder(node_id="late", joined=len(holders), **{**fact, "ready": False})
    before, after = sources(holders), sources([*holders, newcomer])
    in_order = list(after)
    for node_id in in_order[: in_order.index("late")]:
        assert after[node_id] == before[node_id]


@given(st.integers(1, 12))
def test_equal_nodes_that_come_one_by_one_leave_the_chain_as_it_is(count: int) -> None:
    chain = [holder(chr(ord("a") + number)) for number in range(count)]
    for size in range(1, count):
        before, after = sources(chain[:size]), sources(chain[: size + 1])
        assert {node_id: after[node_id] for node_id in before} == before
