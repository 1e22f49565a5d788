"""Candidate table: whatever happens, it decides as the reference does."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llb.policy.routing import CandidateTable, RequestEstimate, RoutingCandidate, SharedSlots, select_node
from tests.policy.routing import reference
from tests.policy.routing.candidates import NODE_IDS, candidates_of, requests, speeds

Event = Callable[[RoutingCandidate, st.DataObject], None]


def begin_request(candidate: RoutingCandidate, data: st.DataObject) -> None:
    candidate.busy += 1
    candidate.prompt_tokens += data.draw(st.integers(0, 4000))
    candidate.completion_tokens += data.draw(st.integers(0, 500))


def end_requests(candidate: RoutingCandidate, _data: st.DataObject) -> None:
    candidate.busy = candidate.prompt_tokens = candidate.completion_tokens = 0


def change_slots(candidate: RoutingCandidate, data: st.DataObject) -> None:
    candidate.slots = data.draw(st.integers(0, 8))


def measure(candidate: RoutingCandidate, data: st.DataObject) -> None:
    candidate.throughput = data.draw(speeds)


EVENTS: tuple[Event, ...] = (begin_request, begin_request, end_requests, change_slots, measure)


EXCLUDED = (frozenset[str](), frozenset(NODE_IDS[::2]), frozenset(NODE_IDS[:3]))


@given(candidates_of(), st.data())
def test_it_decides_as_the_reference_after_any_events(
    candidates: list[RoutingCandidate], data: st.DataObject
) -> None:
    shared = SharedSlots(4)
    for candidate in candidates:
        candidate.priority = data.draw(st.sampled_from((0, 0, 0, -1)))
        candidate.weight = data.draw(st.sampled_from((1.0, 1.0, 0.3, 2.0)))
        candidate.shared = shared if data.draw(st.booleans()) else None
    table = CandidateTable(candidates)
    in_order = sorted(candidates, key=attrgetter("node_id"))
    for _ in range(data.draw(st.integers(1, 8))):
        candidate = data.draw(st.sampled_from(candidates))
        data.draw(st.sampled_from(EVENTS))(candidate, data)
        table.update(candidate)
        # A request for another model of the endpoint changes `busy` without `update`.
        shared.busy = data.draw(st.integers(0, 5))
        request = data.draw(requests)
        excluded = data.draw(
            st.sampled_from((frozenset(), frozenset(NODE_IDS[::2]), frozenset(NODE_IDS[:3])))
        )
        expected = reference.select_node([c for c in in_order if c.node_id not in excluded], request)
        assert select_node(table.without(excluded), request) is expected


@pytest.mark.parametrize(
    ("contexts", "longest"), [((), None), ((4096, None), None), ((4096, 8192, 2048), 8192)]
)
def test_the_longest_context_is_known_if_all_are(
    contexts: tuple[int | None, ...], longest: int | None
) -> None:
    table = CandidateTable(
        [RoutingCandidate(str(row), 1, 0, context_length=length) for row, length in enumerate(contexts)]
    )
    assert table.max_context_length == longest


def test_only_the_last_subsets_are_kept() -> None:
    table = CandidateTable([RoutingCandidate(node_id, 1, 0) for node_id in NODE_IDS])
    first = table.without(frozenset(NODE_IDS[:1]))
    assert table.without(frozenset(NODE_IDS[:1])) is first
    for count in range(2, 8):
        table.without(frozenset(NODE_IDS[:count]))
    assert table.without(frozenset(NODE_IDS[:1])) is not first
    assert select_node(first, RequestEstimate()) is table[1]
