"""Routing policy: selects the node for a request from a snapshot of the nodes that hold its model. Pure.

The node that answered a conversation before may still have its tokens in the prompt cache. So a request with
an affinity key goes to the node of the key, or to the next one of the ring if that node would be overloaded:
consistent hashing with bounded loads (V. Mirrokni, M. Thorup, M. Zadimoghaddam, SODA 2018, arXiv:1608.01350).

Nodes get keys in proportion to their throughput. Each position of the ring has an order of all nodes, by
weighted rendezvous hashing (C. Schindelhauer, G. Schomaker, "Weighted Distributed Hash Tables", SPAA 2005),
so that a node that joins, leaves or becomes faster moves only its own keys. Without a key, the earliest
expected finish decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b

# Bound of the load, relative to the mean: a node above it gets no request for its affinity keys.
LOAD_BOUND_FACTOR = 1.25
RING_POSITIONS = 1024
# Number of cached node orders, of all rings together.
RING_CACHE_SIZE = 8192

# Assumed of an engine while no engine has been measured.
DEFAULT_PREFILL_TOKENS_PER_S = 200.0
DEFAULT_DECODE_TOKENS_PER_S = 20.0
DEFAULT_LOAD_S = 10.0

GRADES_PER_OCTAVE = 2
# Difference from the present grade at which it changes, so that a throughput between two grades does not
# flap.
GRADE_HYSTERESIS = 1.0
# Assumed ratio while only the decode throughput has been measured.
PREFILL_DECODE_RATIO = 10.0
# Prompt and completion tokens of the reference request that turns a throughput into one number.
REFERENCE_TOKENS = 200


@dataclass(slots=True)
class Throughput:
    """Measured throughput of a model on a node: tokens per second of all its slots together.

    `grade` is its logarithm in half octaves.
    """

    prefill_tokens_per_s: float | None = None
    decode_tokens_per_s: float | None = None
    grade: int | None = None

    def update(self, prefill_tokens_per_s: float | None, decode_tokens_per_s: float | None) -> None:
        """Set the last measured values, and the grade if it changed enough."""
        self.prefill_tokens_per_s = prefill_tokens_per_s or None
        self.decode_tokens_per_s = decode_tokens_per_s or None
        if self.decode_tokens_per_s is not None:
            seconds = self.estimate_duration_s(REFERENCE_TOKENS, REFERENCE_TOKENS)
            exact = -GRADES_PER_OCTAVE * math.log2(seconds)
            if self.grade is None or abs(exact - self.grade) > GRADE_HYSTERESIS:
                self.grade = round(exact)

    def estimate_duration_s(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return the duration of a request without any other, infinite if nothing has been measured."""
        if self.decode_tokens_per_s is None:
            return math.inf
        prefill = self.prefill_tokens_per_s or PREFILL_DECODE_RATIO * self.decode_tokens_per_s
        return prompt_tokens / prefill + completion_tokens / self.decode_tokens_per_s


@dataclass(slots=True, eq=False)
class SharedSlots:
    """Requests at a time that an endpoint takes, of all its models together."""

    slots: int
    busy: int = 0


@dataclass(slots=True, eq=False)
class RoutingCandidate:
    """Node or endpoint that has the model. Unless it is `loaded`, its engine takes `load_s` to load it.

    Candidates of a lower `priority` get requests only while those of a higher one have no free slot. A
    candidate with twice the `weight` gets about twice the requests. `shared` limits all models of an
    endpoint together.

    The tokens are those of its present requests, estimated on arrival. The performance model updates
    `throughput`.
    """

    node_id: str
    slots: int
    busy: int
    loaded: bool = True
    load_s: float = DEFAULT_LOAD_S
    prompt_tokens: int = 0
    completion_tokens: int = 0
    context_length: int | None = None
    throughput: Throughput = field(default_factory=Throughput)
    priority: int = 0
    weight: float = 1.0
    shared: SharedSlots | None = None

    @property
    def free_slots(self) -> int:
        free = self.slots - self.busy
        return free if self.shared is None else min(free, self.shared.slots - self.shared.busy)


@dataclass(slots=True)
class RequestEstimate:
    """Estimate of a request before it is answered.

    `prompt_tokens` and `completion_tokens` are still to compute; `context_tokens` must fit into the context.
    `affinity_key` has 64 bits and identifies the conversation.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    context_tokens: int = 0
    affinity_key: int | None = None
    # Requests that will be served before it.
    requests_ahead: int = 0
    waited_s: float = 0.0


UNKNOWN_REQUEST = RequestEstimate()


def select_node(
    candidates: Sequence[RoutingCandidate], request: RequestEstimate = UNKNOWN_REQUEST
) -> RoutingCandidate | None:
    """Return a node with a free slot, None if there is none or waiting for a loaded one is better."""
    if len(candidates) == 1:
        return candidates[0] if candidates[0].free_slots > 0 else None
    fitting = _with_enough_context(candidates, request.context_tokens)
    first = fitting[0].priority if fitting else 0
    if any([candidate.priority != first for candidate in fitting]):  # noqa: C419  # a list is faster
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
    # Of one length; `strict` takes time.
    for candidate, finish_s in zip(loaded, finishes):  # noqa: B905
        if finish_s > best_s or candidate.busy >= candidate.slots:
            continue
        if candidate.shared is not None and candidate.free_slots <= 0:
            continue
        tie = _tie_breaker(candidate)
        if finish_s < best_s or tie < best_tie:
            best, best_s, best_tie = candidate, finish_s, tie
    if best is None:
        return _select_cold_node(fitting, loaded, request)
    if request.affinity_key is not None and len(loaded) > 1:
        bound_s = LOAD_BOUND_FACTOR * sum(finishes) / len(finishes)
        if best_s <= bound_s:
            node_ids = tuple([candidate.node_id for candidate in loaded])
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
    if all([candidate.weight == 1.0 for candidate in candidates]):  # noqa: C419  # a list is faster
        return finishes
    return [finish / candidate.weight for finish, candidate in zip(finishes, candidates, strict=True)]


def _throughput_grades(candidates: Sequence[RoutingCandidate]) -> tuple[int, ...]:
    """Return the grades of the candidates; one without a measurement counts as the fastest."""
    grades = [candidate.throughput.grade for candidate in candidates]
    fastest = max([grade for grade in grades if grade is not None], default=0) if None in grades else 0
    return tuple(
        [
            (fastest if grade is None else grade)
            + (0 if candidate.weight == 1.0 else round(GRADES_PER_OCTAVE * math.log2(candidate.weight)))
            for grade, candidate in zip(grades, candidates, strict=True)
        ]
    )


def _tie_breaker(candidate: RoutingCandidate) -> tuple[float, str]:
    return candidate.busy / candidate.slots, candidate.node_id


@lru_cache(maxsize=RING_CACHE_SIZE)
def rank_nodes(node_ids: tuple[str, ...], grades: tuple[int, ...], ring_position: int) -> tuple[int, ...]:
    """Return the indexes of the nodes in the order of this ring position.

    Each node comes first in a share of all positions that is proportional to its throughput.
    """

    def score(index: int) -> float:
        # Uniform in (0, 1).
        sample = (hash64(f"{ring_position}/{node_ids[index]}".encode()) + 0.5) / 2**64
        return math.log(sample) / math.exp2(grades[index] / GRADES_PER_OCTAVE)

    return tuple(sorted(range(len(node_ids)), key=score, reverse=True))


def hash64(data: bytes) -> int:
    """Return a 64-bit hash that is the same in all processes."""
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")
