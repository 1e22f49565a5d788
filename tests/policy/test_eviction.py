"""Eviction policy: least recently used, never busy or pinned, no more than necessary."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llb.policy.eviction import LoadedEngine, select_victims
from llb.policy.memory import FreeMemory, Memory


def engine(
    name: str, ram: int, vram: int = 0, *, used: float = 0.0, busy: bool = False, pinned: bool = False
) -> LoadedEngine:
    return LoadedEngine(name, Memory(ram, (vram,)), busy, pinned, used)


@pytest.mark.parametrize(
    ("need", "free", "engines", "expected"),
    [
        (Memory(5), FreeMemory(5), [engine("a", 9)], ()),
        (Memory(5), FreeMemory(4), [], None),
        (Memory(5), FreeMemory(0), [engine("new", 5, used=2), engine("old", 5, used=1)], ("old",)),
        (Memory(5), FreeMemory(0), [engine("a", 3, used=1), engine("b", 3, used=2), engine("c", 3, used=3)],
         ("a", "b")),
        (Memory(5), FreeMemory(0), [engine("small", 1, used=1), engine("large", 5, used=2)], ("large",)),
        (Memory(5), FreeMemory(0), [engine("busy", 9, busy=True), engine("idle", 5, used=9)], ("idle",)),
        (Memory(5), FreeMemory(0), [engine("busy", 9, busy=True)], None),
        (Memory(5), FreeMemory(0), [engine("pinned", 9, pinned=True)], None),
        (Memory(0, (5,)), FreeMemory(9, (0,)), [engine("ram", 9, used=1), engine("gpu", 1, 5, used=2)],
         ("gpu",)),
        (Memory(5, (5,)), FreeMemory(5, (0,)), [engine("ram", 9)], None),
        (Memory(0, (5,)), FreeMemory(-3, (5,)), [engine("ram", 9)], ()),
        (Memory(5), FreeMemory(-3), [engine("a", 4, used=1), engine("b", 4, used=2)], ("a", "b")),
        (Memory(5), FreeMemory(0), [engine("b", 5), engine("a", 5)], ("a",)),
        (Memory(6), FreeMemory(0), [engine("a", 1, used=1), engine("b", 1, used=2), engine("c", 5, used=3)],
         ("a", "c")),
        (Memory(5), FreeMemory(0), [engine("a", 1, used=1), engine("b", 1, used=2), engine("c", 5, used=3)],
         ("c",)),
        (Memory(0, (5,)), FreeMemory(9, (0,)), [engine("gpu", 1, 9, used=1), engine("ram", 9, used=2)],
         ("gpu",)),
        # One pool: what is released in VRAM is RAM for others too, and the other way round.
        (Memory(6), FreeMemory(1, (0,), True), [engine("gpu", 1, 5)], ("gpu",)),
        (Memory(1, (5,)), FreeMemory(0, (9,), True), [engine("ram", 6)], ("ram",)),
        (Memory(1, (5,)), FreeMemory(5, (9,), True), [], None),
    ],
)  # fmt: skip
def test_victims(
    need: Memory, free: FreeMemory, engines: list[LoadedEngine], expected: tuple[str, ...] | None
) -> None:
    assert select_victims(need, free, engines) == expected


@pytest.mark.parametrize(
    ("free", "need", "covers"),
    [
        (FreeMemory(5, (5,)), Memory(5, (5,)), True),
        (FreeMemory(5, (5,)), Memory(6, (5,)), False),
        (FreeMemory(5, (5,)), Memory(5, (6,)), False),
        (FreeMemory(0, (0,)), Memory(1, (0,)), False),
        (FreeMemory(0, (0,)), Memory(0, (1,)), False),
        (FreeMemory(-1, (-1,)), Memory(0, (0,)), True),
        (FreeMemory(-1, (1,)), Memory(0, (1,)), True),
        (FreeMemory(1, (-1,)), Memory(1, (0,)), True),
        (FreeMemory(9, (5, 5)), Memory(0, (5, 5)), True),
        (FreeMemory(9, (5, 5)), Memory(0, (6,)), False),
        (FreeMemory(9, (5, 5)), Memory(0, (0, 6)), False),
        (FreeMemory(9, (5,)), Memory(0, (0, 1)), False),
        (FreeMemory(9, (5,), True), Memory(4, (5,)), True),
        (FreeMemory(9, (5,), True), Memory(5, (5,)), False),
        (FreeMemory(9, (5,), True), Memory(1, (6,)), False),
    ],
)
def test_of_a_kind_that_is_not_needed_there_may_be_less_than_nothing(
    free: FreeMemory, need: Memory, covers: bool
) -> None:
    assert free.covers(need) is covers


vram = st.lists(st.integers(0, 20), max_size=3).map(tuple)
amounts = st.builds(Memory, st.integers(0, 20), vram)
pools = st.builds(FreeMemory, st.integers(0, 20), vram, st.booleans())
fleets = st.lists(
    st.builds(LoadedEngine, st.uuids().map(str), amounts, st.booleans(), st.booleans(), st.floats(0, 9)),
    max_size=6,
)


@given(amounts, pools, fleets)
def test_it_makes_room_and_takes_no_more_than_needed(
    need: Memory, free: FreeMemory, fleet: list[LoadedEngine]
) -> None:
    chosen = select_victims(need, free, fleet)
    everything = free.with_released(*(each.memory for each in fleet if each.is_evictable))
    if chosen is None:
        assert not everything.covers(need)
        return
    taken = [each for each in fleet if each.model_id in chosen]
    assert all(each.is_evictable for each in taken)
    freed = free.with_released(*(each.memory for each in taken))
    assert freed.covers(need)
    for spared in taken:
        assert not (freed - spared.memory).covers(need)


def test_less_is_used_after_loads_that_ran_out_of_memory() -> None:
    free = FreeMemory(1000, (400, 200), is_shared=True)
    assert free.reduced(0) == free
    assert free.reduced(1) == FreeMemory(850, (340, 170), is_shared=True)
    assert free.reduced(3) == FreeMemory(614, (0, 0), is_shared=True)
    # Less was free than is known: not the whole of it counts, but what the load was to take.
    assert free.reduced(1, Memory(500, (100, 0))) == FreeMemory(850, (85, 170), is_shared=True)
    assert free.reduced(1, Memory(500, (500,))) == FreeMemory(850, (340, 170), is_shared=True)
    assert free.reduced(4, Memory(500)) == FreeMemory(425, (0, 0), is_shared=True)
