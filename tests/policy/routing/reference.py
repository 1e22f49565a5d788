"""Reference of the routing policy: the decision as loops over candidates, without tables or columns."""

from __future__ import annotations

import math
from collections.abc import Sequence

from llb.policy.routing import UNKNOWN_REQUEST, RequestEstimate, RoutingCandidate, hash64

LOAD_BOUND_FACTOR = 1.25
RING_POSITIONS = 1024
DEFAULT_PREFILL_TOKENS_PER_S = 200.0
DEFAULT_DECODE_TOKENS_PER_S = 20.0
GRADES_PER_OCTAVE = 2


def select_node(
    candidates: Sequence[RoutingCandidate], request: RequestEstimate = UNKNOWN_REQUEST
) -> RoutingCandidate | None:
    """Return a node with a free slot, None if there is none or waiting for a loaded one is better."""
    if len(candidates) == 1:
        return candidates[0] if candidates[0].free_slots > 0 else None
    fitting = _with_enough_context(candidates, request.context_tokens)
    first = fitting[0].priority if fitting else 0
    if any(candidate.priority != first for candidate in fitting):
        for priority in sorted({candidate.priority for candidate in fitting}, reverse=True):
            group = [candidate for candidate in fitting if candidate.priority == priority]
            if (selected := _select_of_equal_priority(group, request)) is not None:
                return selected
        return None
    return _select_of_equal_priority(fitting, request)


def _select_of_equal_priority(
    fitting: Sequence[RoutingCandidate], request: RequestEstimate
) -> RoutingCandidate | None:
    loaded = [candidate for candidate in fitting if candidate.loaded]
    finishes = _weighted_finish_times_s(loaded, request)
    best, best_s, best_tie = None, math.inf, (math.inf, "")
    for candidate, finish_s in zip(loaded, finishes, strict=True):
        if finish_s > best_s or candidate.free_slots <= 0:
            continue
        tie = _tie_breaker(candidate)
        if finish_s < best_s or tie < best_tie:
            best, best_s, best_tie = candidate, finish_s, tie
    if best is None:
        return _select_cold_node(fitting, loaded, request)
    if request.affinity_key is not None and len(loaded) > 1:
        bound_s = LOAD_BOUND_FACTOR * sum(finishes) / len(finishes)
        if best_s <= bound_s:
            node_ids = tuple(candidate.node_id for candidate in loaded)
            for index in rank_nodes(
                node_ids, _throughput_grades(loaded), request.affinity_key % RING_POSITIONS
            ):
                if finishes[index] <= bound_s and loaded[index].free_slots > 0:
                    return loaded[index]
    return best


def _select_cold_node(
    fitting: Sequence[RoutingCandidate], loaded: Sequence[RoutingCandidate], request: RequestEstimate
) -> RoutingCandidate | None:
    """Return the node that would finish first including its load, preferably one that is loading already.

    None while a slot of a loaded node is likely to become free sooner. A request that has waited for as long
    as a load takes waits no longer, so the total is at most twice that of the better choice, however wrong
    the estimate is.
    """
    cold = [candidate for candidate in fitting if not candidate.loaded and candidate.free_slots > 0]
    if not cold:
        return None
    soonest = min(
        zip(cold, _finish_times_s(cold, request), strict=True),
        key=lambda pair: (pair[0].busy == 0, pair[0].load_s + pair[1], _tie_breaker(pair[0])),
    )[0]
    wait_s = max(request.waited_s, estimate_wait_s(loaded, request.requests_ahead))
    return soonest if wait_s >= soonest.load_s else None


def estimate_wait_s(loaded: Sequence[RoutingCandidate], requests_ahead: int) -> float:
    """Return the seconds until a slot of these busy nodes is free after `requests_ahead` other requests.

    Each node completes its requests at the rate of its throughput. Infinite without any node.
    """
    completed_per_s = sum(
        candidate.busy / seconds
        for candidate, seconds in zip(loaded, _finish_times_s(loaded, UNKNOWN_REQUEST), strict=True)
        if seconds > 0
    )
    return (requests_ahead + 1) / completed_per_s if completed_per_s > 0 else math.inf


def _with_enough_context(
    candidates: Sequence[RoutingCandidate], context_tokens: int
) -> Sequence[RoutingCandidate]:
    """Return the candidates whose context may be long enough; all of them if none is known to be."""
    known = [c.context_length for c in candidates if c.context_length is not None]
    if known and min(known) < context_tokens <= max(known):
        return [c for c in candidates if c.context_length is None or c.context_length >= context_tokens]
    return candidates


def _finish_times_s(candidates: Sequence[RoutingCandidate], request: RequestEstimate) -> list[float]:
    """Return the seconds in which each candidate would finish its present requests and `request`.

    A candidate without a measurement counts as the fastest one, so that it gets a request and is measured.
    """
    prefill, decode = DEFAULT_PREFILL_TOKENS_PER_S, DEFAULT_DECODE_TOKENS_PER_S
    if None in [candidate.throughput.prefill_tokens_per_s for candidate in candidates]:
        measured = [c.throughput.prefill_tokens_per_s for c in candidates]
        prefill = max([rate for rate in measured if rate is not None], default=prefill)
    if None in [candidate.throughput.decode_tokens_per_s for candidate in candidates]:
        measured = [c.throughput.decode_tokens_per_s for c in candidates]
        decode = max([rate for rate in measured if rate is not None], default=decode)
    prompt, completion = request.prompt_tokens, request.completion_tokens
    return [
        (candidate.prompt_tokens + prompt) / (candidate.throughput.prefill_tokens_per_s or prefill)
        + (candidate.completion_tokens + completion) / (candidate.throughput.decode_tokens_per_s or decode)
        for candidate in candidates
    ]


def _weighted_finish_times_s(candidates: Sequence[RoutingCandidate], request: RequestEstimate) -> list[float]:
    finishes = _finish_times_s(candidates, request)
    return [finish / candidate.weight for finish, candidate in zip(finishes, candidates, strict=True)]


def _throughput_grades(candidates: Sequence[RoutingCandidate]) -> tuple[int, ...]:
    """Return the grades of the candidates; one without a measurement counts as the fastest."""
    grades = [candidate.throughput.grade for candidate in candidates]
    fastest = max([grade for grade in grades if grade is not None], default=0) if None in grades else 0
    return tuple(
        (fastest if grade is None else grade) + round(GRADES_PER_OCTAVE * math.log2(candidate.weight))
        for grade, candidate in zip(grades, candidates, strict=True)
    )


def _tie_breaker(candidate: RoutingCandidate) -> tuple[float, str]:
    return candidate.busy / candidate.slots, candidate.node_id


def rank_nodes(node_ids: tuple[str, ...], grades: tuple[int, ...], ring_position: int) -> tuple[int, ...]:
    """Return the indexes of the nodes in the order of this ring position.

    Each node comes first in a share of all positions that is proportional to its throughput.
    """

    def score(index: int) -> float:
        # Uniform in (0, 1).
        sample = (hash64(f"{ring_position}/{node_ids[index]}".encode()) + 0.5) / 2**64
        return math.log(sample) / math.exp2(grades[index] / GRADES_PER_OCTAVE)

    return tuple(sorted(range(len(node_ids)), key=score, reverse=True))
