from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llb.decide.routing import Candidate, choose


@pytest.mark.parametrize(
    ("candidates", "node_id"),
    [
        ([], None),
        ([Candidate("a", 2, 2)], None),
        ([Candidate("a", 0, 0)], None),
        ([Candidate("a", 2, 1), Candidate("b", 2, 0)], "b"),
        ([Candidate("a", 2, 1), Candidate("b", 8, 3)], "b"),
        ([Candidate("a", 2, 0, loaded=False), Candidate("b", 2, 1)], "b"),
        ([Candidate("a", 2, 0, loaded=False), Candidate("b", 2, 2)], "a"),
        ([Candidate("b", 2, 1), Candidate("a", 4, 2)], "a"),
    ],
)
def test_choose(candidates: list[Candidate], node_id: str | None) -> None:
    chosen = choose(candidates)
    assert (chosen.node_id if chosen is not None else None) == node_id


nodes = st.lists(
    st.builds(Candidate, st.text(min_size=1), st.integers(0, 8), st.integers(0, 8), st.booleans()),
    unique_by=lambda candidate: candidate.node_id,
)


@given(nodes.flatmap(lambda candidates: st.tuples(st.just(candidates), st.permutations(candidates))))
def test_the_choice_does_not_depend_on_the_order(both: tuple[list[Candidate], list[Candidate]]) -> None:
    candidates, shuffled = both
    assert choose(candidates) == choose(shuffled)


@given(nodes)
def test_a_free_slot_is_always_found(candidates: list[Candidate]) -> None:
    chosen = choose(candidates)
    assert (chosen is None) == all(candidate.free <= 0 for candidate in candidates)
    assert chosen is None or chosen.free > 0
