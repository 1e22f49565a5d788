"""Columns of candidates: what is assumed of those not measured, weights, bounds, waits and loads."""

from __future__ import annotations

import math
from typing import Any

import pytest

from llb.policy.routing import RequestEstimate, RoutingCandidate, SharedSlots, Throughput
from llb.policy.routing.columns import (
    DEFAULT_DECODE_TOKENS_PER_S,
    DEFAULT_PREFILL_TOKENS_PER_S,
    CandidateColumns,
)
from tests.policy.routing.candidates import KEYS, named, speed

NOTHING = RequestEstimate()


def candidate(
    node_id: str,
    busy: int = 0,
    *,
    slots: int = 2,
    rate: float | None = 10.0,
    tokens: int = 0,
    **fields: Any,
) -> RoutingCandidate:
    """A node with `tokens` to write for its present requests, at a `rate`."""
    throughput = Throughput() if rate is None else speed(rate, rate)
    return RoutingCandidate(node_id, slots, busy, completion_tokens=tokens, throughput=throughput, **fields)


def chosen(columns: CandidateColumns, request: RequestEstimate = NOTHING) -> str | None:
    return named(columns.select(request))


def test_who_was_not_measured_counts_as_the_fastest() -> None:
    slow, fast, new = candidate("a"), candidate("b", rate=100.0), candidate("c", rate=None)
    columns = CandidateColumns([slow, fast, new])
    # As soon as the fastest, and the least busy of both.
    fast.busy = 1
    columns.update(fast)
    assert chosen(columns, RequestEstimate(0, 100)) == "c"
    # Measured since.
    new.throughput.update(1.0, 1.0)
    columns.update(new)
    assert chosen(columns, RequestEstimate(0, 100)) == "b"


def test_without_any_measurement_rates_are_assumed() -> None:
    request = RequestEstimate(int(DEFAULT_PREFILL_TOKENS_PER_S), int(DEFAULT_DECODE_TOKENS_PER_S))
    columns = CandidateColumns([candidate("a", 1, rate=None, tokens=int(DEFAULT_DECODE_TOKENS_PER_S))])
    # One request of a second at a time.
    assert columns.wait_s(0) == 1.0
    assert columns._finish_times_s(request) == [3.0]


def test_the_first_to_finish_has_a_free_slot() -> None:
    full, loaded = candidate("a", 2), candidate("b", 1, tokens=100)
    assert chosen(CandidateColumns([full, loaded])) == "b"
    loaded.busy = 2
    columns = CandidateColumns([full, loaded])
    assert chosen(columns) is None
    assert chosen(CandidateColumns([])) is None


def test_slots_that_other_models_have_taken_are_not_free() -> None:
    """No column has them: they change with requests for other models."""
    shared = SharedSlots(slots=2, busy=1)
    box, other = candidate("box"), candidate("z", 1, tokens=100)
    box.shared = shared
    columns = CandidateColumns([box, other])
    assert chosen(columns) == "box"
    shared.busy = 2
    assert chosen(columns) == "z"


def test_twice_the_weight_may_have_twice_the_work() -> None:
    light, heavy = candidate("a", 1, tokens=100), candidate("b", 1, tokens=190, weight=2.0)
    assert chosen(CandidateColumns([light, heavy])) == "b"
    heavy.completion_tokens = 210
    assert chosen(CandidateColumns([light, heavy])) == "a"


@pytest.mark.parametrize("key", KEYS[:5])
def test_a_key_leaves_its_node_only_above_the_bound(key: int) -> None:
    nodes = [candidate(name, 1, tokens=100) for name in "abc"]
    columns = CandidateColumns(nodes)
    request = RequestEstimate(affinity_key=key)
    home = chosen(columns, request)
    [own] = (node for node in nodes if node.node_id == home)
    # At the bound: 1.25 of the mean, which its own work is a part of.
    own.completion_tokens = 140
    columns.update(own)
    assert chosen(columns, request) == home
    own.completion_tokens = 160
    columns.update(own)
    assert chosen(columns, request) != home
    # A full one has no place for it either.
    own.completion_tokens, own.busy = 100, 2
    columns.update(own)
    assert chosen(columns, request) != home


def test_the_wait_follows_the_rate_at_which_requests_complete() -> None:
    # A slot every two seconds here, and every four there.
    columns = CandidateColumns([candidate("a", 1, tokens=20), candidate("b", 1, tokens=40)])
    assert columns.wait_s(0) == pytest.approx(1 / (1 / 2 + 1 / 4))
    assert columns.wait_s(2) == pytest.approx(3 * columns.wait_s(0))
    assert CandidateColumns([]).wait_s(0) == math.inf
    assert CandidateColumns([candidate("a")]).wait_s(0) == math.inf


def test_a_load_that_runs_is_preferred_to_a_shorter_one() -> None:
    idle, loading = candidate("a", load_s=1.0), candidate("b", 1, load_s=9.0)
    assert named(CandidateColumns([idle, loading]).select_to_load(NOTHING)) == "b"
    quick, slow = candidate("a", load_s=3.0, rate=1.0), candidate("b", load_s=5.0, rate=100.0)
    columns = CandidateColumns([quick, slow])
    assert named(columns.select_to_load(NOTHING)) == "a"
    # A long answer is worth a longer load.
    assert named(columns.select_to_load(RequestEstimate(0, 100))) == "b"


def test_a_node_without_slots_is_fully_used() -> None:
    none, some = candidate("a", slots=0), candidate("b", 1)
    assert chosen(CandidateColumns([none, some])) == "b"
