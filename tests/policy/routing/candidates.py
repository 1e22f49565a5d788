"""Candidates and requests of the property tests."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from llb.policy.routing import (
    RequestEstimate,
    RoutingCandidate,
    Throughput,
    hash64,
)
from llb.policy.routing.affinity_ring import ring_divisors, ring_samples, ring_scores

KEYS = [hash64(b"%d" % number) for number in range(2000)]
# A fixed set, because the samples of a node on the ring take a millisecond.
NODE_IDS = ("", "ä", "node 1", *(f"{number:02}" for number in range(29)))


def named(chosen: RoutingCandidate | None) -> str | None:
    return chosen.node_id if chosen is not None else None


def speed(prefill: float | None, decode: float | None) -> Throughput:
    known = Throughput()
    known.update(prefill, decode)
    return known


speeds = st.one_of(
    st.builds(Throughput), st.builds(speed, st.floats(1, 5000), st.floats(0.5, 500)),
    st.builds(Throughput, st.floats(1, 5000))
)  # fmt: skip


@st.composite
def candidates_of(draw: st.DrawFn, *, measured: bool = False, loaded: bool = False) -> list[RoutingCandidate]:
    names = draw(st.lists(st.sampled_from(NODE_IDS), min_size=1, max_size=8, unique=True))
    found = []
    for name in names:
        slots, busy = draw(st.integers(0, 8)), draw(st.integers(0, 8))
        found.append(
            RoutingCandidate(
                name,
                slots,
                busy,
                loaded or draw(st.booleans()),
                draw(st.floats(0, 100)),
                prompt_tokens=busy * draw(st.integers(0, 4000)),
                completion_tokens=busy * draw(st.integers(0, 500)),
                context_length=draw(st.sampled_from([None, 2048, 8192])),
                throughput=draw(
                    st.builds(speed, st.floats(1, 5000), st.floats(0.5, 500)) if measured else speeds
                ),
            )
        )
    return found


requests = st.builds(
    RequestEstimate,
    st.integers(0, 8000),
    st.integers(0, 1000),
    st.integers(0, 10_000),
    st.none() | st.sampled_from(KEYS),
    st.integers(0, 600),
    st.floats(0, 200),
)


def rank_nodes(node_ids: Sequence[str], grades: Sequence[int], position: int) -> list[int]:
    """Return the rows of the nodes in the order of a position of the ring."""
    samples = [ring_samples(node_id) for node_id in node_ids]
    scores = ring_scores(samples, ring_divisors(grades), position)
    return sorted(range(len(node_ids)), key=scores.__getitem__, reverse=True)
