"""Placement policy: the nodes of a model, and whether it fits."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llb.policy.placement import NodeCapacity, check_fit, largest_node, place_replicas
from llb.wire import Verdict

GB = 10**9


def room(node_id: str, budget: int = 10 * GB, vram: int = 0, **changes: Any) -> NodeCapacity:
    return NodeCapacity(
        node_id=node_id,
        node_name=node_id,
        budget_bytes=budget,
        vram_bytes=vram,
        **{"disk_free_bytes": 100 * GB, **changes},
    )


@pytest.mark.parametrize(
    ("rooms", "verdict", "node"),
    [
        ([], Verdict.UNKNOWN, None),
        ([room("a", 10 * GB)], Verdict.FITS, "a"),
        ([room("a", 8 * GB)], Verdict.FITS, "a"),
        ([room("a", 7 * GB), room("b", 5 * GB)], Verdict.TOO_LARGE, "a"),
        ([room("a", 30 * GB, vram=8 * GB)], Verdict.FITS, "a"),
        ([room("a", 30 * GB, vram=6 * GB)], Verdict.TIGHT, "a"),
        ([room("a", 30 * GB, vram=6 * GB), room("b", 9 * GB)], Verdict.FITS, "b"),
        ([room("a", 64 * GB), room("b", 12 * GB, vram=9 * GB)], Verdict.FITS, "b"),
        ([room("a", 64 * GB, vram=9 * GB), room("b", 12 * GB, vram=10 * GB)], Verdict.FITS, "b"),
        ([room("a", 12 * GB, vram=9 * GB), room("b", 64 * GB, vram=9 * GB)], Verdict.FITS, "b"),
    ],
)
def test_fit(rooms: list[NodeCapacity], verdict: Verdict, node: str | None) -> None:
    found = check_fit(8 * GB, rooms)
    assert (found.verdict, found.node_name, found.required_bytes) == (verdict, node, 8 * GB)


def test_the_refusal_speaks_of_the_roomiest_node() -> None:
    assert check_fit(16 * GB, [room("a", 4 * GB), room("b", 8 * GB)]).available_bytes == 8 * GB


def test_every_node_that_it_fits_on_holds_it() -> None:
    rooms = [
        room("fits"),
        room("small", 1 * GB),
        room("full", disk_free_bytes=0),
        room("has", disk_free_bytes=0, has_files=True),
        room("draining", draining=True),
    ]
    assert place_replicas(2 * GB, 2 * GB, None, rooms) == {"fits", "has"}


def test_what_is_just_enough_is_enough() -> None:
    assert place_replicas(2 * GB, 3 * GB, None, [room("a", 2 * GB, disk_free_bytes=3 * GB)]) == {"a"}
    assert place_replicas(2 * GB, 3 * GB, None, [room("a", 2 * GB - 1, disk_free_bytes=3 * GB)]) == set()
    assert place_replicas(2 * GB, 3 * GB, None, [room("a", 2 * GB, disk_free_bytes=3 * GB - 1)]) == set()


def test_n_replicas_go_to_the_roomiest_but_stay_where_they_are() -> None:
    rooms = [room("a", 5 * GB, has_files=True), room("b", 20 * GB), room("c", 30 * GB)]
    assert place_replicas(2 * GB, 2 * GB, 1, rooms) == {"a"}
    assert place_replicas(2 * GB, 2 * GB, 2, rooms) == {"a", "c"}


def test_a_node_that_is_away_keeps_what_it_holds_and_gets_nothing_new() -> None:
    away = room("a", 5 * GB, has_files=True, has_all_files=True, is_briefly_offline=True)
    rooms = [away, room("b", 20 * GB), room("c", 9 * GB, is_briefly_offline=True)]
    assert place_replicas(2 * GB, 2 * GB, 1, rooms) == {"a"}
    assert place_replicas(2 * GB, 2 * GB, 2, rooms) == {"a", "b"}
    assert place_replicas(2 * GB, 2 * GB, 3, rooms) == {"a", "b"}


def test_who_has_all_of_a_model_comes_before_who_fetches_it() -> None:
    rooms = [
        room("fetching", 20 * GB, has_files=True),
        room("has", 5 * GB, has_files=True, has_all_files=True),
    ]
    assert place_replicas(2 * GB, 2 * GB, 1, rooms) == {"has"}


rooms_of_any_size = st.lists(
    st.builds(
        room,
        st.text("abcdef", min_size=1, max_size=2),
        st.integers(0, 20 * GB),
        disk_free_bytes=st.integers(0, 20 * GB),
        draining=st.booleans(),
        has_files=st.booleans(),
        has_all_files=st.booleans(),
        is_briefly_offline=st.booleans(),
    ),
    max_size=6,
    unique_by=lambda each: each.node_id,
)


@given(rooms_of_any_size, st.integers(1, 20 * GB), st.integers(1, 20 * GB), st.none() | st.integers(1, 4))
def test_nothing_is_placed_where_it_cannot_run(
    rooms: list[NodeCapacity], required: int, size: int, replicas: int | None
) -> None:
    placed = place_replicas(required, size, replicas, rooms)
    by_id = {each.node_id: each for each in rooms}
    assert all(by_id[node_id].budget_bytes >= required for node_id in placed)
    assert replicas is None or len(placed) <= replicas
    assert not any(by_id[node_id].is_briefly_offline and not by_id[node_id].has_files for node_id in placed)
    best = largest_node(rooms)
    assert best is None or all(best.budget_bytes >= each.budget_bytes for each in rooms)
