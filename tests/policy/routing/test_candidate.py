"""Candidates: grades of throughput, free slots, and what a request takes."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from llb.policy.routing import RoutingCandidate, SharedSlots, Throughput
from llb.policy.routing.candidate import GRADE_HYSTERESIS
from tests.policy.routing.candidates import speed


@given(st.floats(0.1, 10_000), st.lists(st.floats(-0.15, 0.15), max_size=30))
def test_a_speed_that_wavers_moves_no_key(tokens_per_s: float, wavering: list[float]) -> None:
    known = speed(tokens_per_s, tokens_per_s)
    before = known.grade
    for part in wavering:
        known.update(tokens_per_s * (1 + part), tokens_per_s * (1 + part))
        assert known.grade == before


@given(st.floats(0.1, 10_000), st.floats(0.1, 10_000))
def test_the_grade_follows_the_speed(first: float, then: float) -> None:
    known = speed(first, first)
    known.update(then, then)
    assert known.grade is not None
    assert abs(known.grade - speed(then, then).grade) <= GRADE_HYSTERESIS + 0.5  # type: ignore[operator]


def test_a_prompt_that_was_never_measured_is_read_ten_times_as_fast_as_text_is_written() -> None:
    known = Throughput()
    known.update(None, 10.0)
    assert known.estimate_duration_s(200, 50) == 2.0 + 5.0
    assert Throughput().estimate_duration_s(1, 1) == math.inf


def test_a_rate_of_zero_was_not_measured() -> None:
    known = Throughput()
    known.update(0.0, 0.0)
    assert (known.prefill_tokens_per_s, known.decode_tokens_per_s, known.grade) == (None, None, None)
    # Reading alone tells no grade.
    known.update(500.0, None)
    assert known.grade is None


def test_free_slots_are_those_of_the_model_and_of_its_endpoint() -> None:
    candidate = RoutingCandidate("box", 4, 1)
    assert candidate.free_slots == 3
    candidate.shared = SharedSlots(slots=3, busy=2)
    assert candidate.free_slots == 1
    # Fewer than are busy, while an endpoint recovers.
    candidate.shared.slots = 1
    assert candidate.free_slots == -1
