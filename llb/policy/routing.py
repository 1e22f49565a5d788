"""Which node gets a request: a pure choice over a snapshot of the nodes that hold its model.

Where a conversation was answered before, its tokens may still be in the engine's cache. So a request with an affinity key
goes to the key's node on a ring, unless that node would have too much of the work; then to the next one. That is consistent
hashing with bounded loads (V. Mirrokni, M. Thorup, M. Zadimoghaddam, SODA 2018, arXiv:1608.01350). Nodes get keys in
proportion to their speed: each place of the ring has an order of all nodes, by weighted rendezvous hashing
(C. Schindelhauer, G. Schomaker, "Weighted Distributed Hash Tables", SPAA 2005), so that a node which comes, goes or
becomes faster moves its own keys only. Where no key decides, the smallest expected finish does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b

LOAD_BOUND_FACTOR = 1.25  # of the mean work: a node that would have more of it is not its keys' any longer
RING_POSITIONS = 1024
RING_CACHE_SIZE = 8192  # orders that are remembered, of whatever ring

# What an engine is taken for while nothing is known of any.
DEFAULT_PREFILL_TOKENS_PER_S = 200.0  # tokens a second
DEFAULT_DECODE_TOKENS_PER_S = 20.0
DEFAULT_LOAD_S = 10.0

GRADES_PER_OCTAVE = 2
# A speed may differ so far from its grade before it gets another: who stands between two must not go to and fro.
GRADE_HYSTERESIS = 1.0
PREFILL_DECODE_RATIO = 10.0  # where only the latter was measured
REFERENCE_TOKENS = 200  # computed of a prompt, and of an answer: a speed in one number


@dataclass(slots=True)
class Throughput:
    """How fast a node runs a model, as far as it was measured: tokens a second, of all its slots together. `grade` is
    the logarithm of that, in half octaves."""

    prefill_tokens_per_s: float | None = None
    decode_tokens_per_s: float | None = None
    grade: int | None = None

    def update(self, prefill_tokens_per_s: float | None, decode_tokens_per_s: float | None) -> None:
        """Take what was measured last."""
        self.prefill_tokens_per_s, self.decode_tokens_per_s = (
            prefill_tokens_per_s or None,
            decode_tokens_per_s or None,
        )
        if self.decode_tokens_per_s is not None:
            seconds = self.estimate_duration_s(REFERENCE_TOKENS, REFERENCE_TOKENS)
            exact = -GRADES_PER_OCTAVE * math.log2(seconds)
            if self.grade is None or abs(exact - self.grade) > GRADE_HYSTERESIS:
                self.grade = round(exact)

    def estimate_duration_s(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What a request of so many tokens to compute takes alone; endless where nothing was measured."""
        if self.decode_tokens_per_s is None:
            return math.inf
        prefill = self.prefill_tokens_per_s or PREFILL_DECODE_RATIO * self.decode_tokens_per_s
        return prompt_tokens / prefill + completion_tokens / self.decode_tokens_per_s


@dataclass(slots=True, eq=False)
class RoutingCandidate:
    """A node that holds the model; `loaded` means that its engine holds the weights already, else it would in `load_s`.
    The tokens are those of the requests it has now, estimated when they came. Its speed is shared with who measures it."""

    node_id: str
    slots: int
    busy: int
    loaded: bool = True
    load_s: float = DEFAULT_LOAD_S
    prompt_tokens: int = 0
    completion_tokens: int = 0
    context_length: int | None = None
    throughput: Throughput = field(default_factory=Throughput)

    @property
    def free_slots(self) -> int:
        return self.slots - self.busy


@dataclass(slots=True)
class RequestEstimate:
    """What is known of a request before it is answered, all of it estimated: the tokens to compute of its prompt and to
    write, how many it has in all to fit a context, the key of its conversation (64 bits), and how it waits."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    context_tokens: int = 0
    affinity_key: int | None = None
    requests_ahead: int = 0  # who will be served before it
    waited_s: float = 0.0


UNKNOWN_REQUEST = RequestEstimate()


def select_node(
    candidates: Sequence[RoutingCandidate], request: RequestEstimate = UNKNOWN_REQUEST
) -> RoutingCandidate | None:
    """A node with a free slot for `request`; None: there is none, or it is better to wait for one that is loaded."""
    if len(candidates) == 1:
        return candidates[0] if candidates[0].free_slots > 0 else None
    fitting = _with_enough_context(candidates, request.context_tokens)
    loaded = [candidate for candidate in fitting if candidate.loaded]
    finishes = _finish_times_s(loaded, request)
    best, best_s = None, math.inf
    for candidate, finish_s in zip(loaded, finishes):  # noqa: B905  # of one length, and `strict` takes time
        if finish_s > best_s or candidate.busy >= candidate.slots:
            continue
        if best is None or finish_s < best_s or _tie_breaker(candidate) < _tie_breaker(best):
            best, best_s = candidate, finish_s
    if best is None:
        return _select_cold_node(fitting, loaded, request)
    if request.affinity_key is not None and len(loaded) > 1:
        bound_s = LOAD_BOUND_FACTOR * sum(finishes) / len(finishes)
        if best_s <= bound_s:
            names = tuple([candidate.node_id for candidate in loaded])
            for index in rank_nodes(names, _throughput_grades(loaded), request.affinity_key % RING_POSITIONS):
                if finishes[index] <= bound_s and loaded[index].free_slots > 0:
                    return loaded[index]
    return best


def _select_cold_node(
    fitting: Sequence[RoutingCandidate], loaded: Sequence[RoutingCandidate], request: RequestEstimate
) -> RoutingCandidate | None:
    """The node that would answer soonest with its load, one that loads already before any other; None while a slot of a
    loaded one is likely to become free sooner. Who has waited for as long as the load takes waits no longer: so
    the two together are never more than twice what the better one would have been, however wrong the estimate is."""
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
    """Seconds until a slot of these nodes, all of them busy, is free for who has `ahead` others before them: each node
    ends its requests at the rate at which it works through their tokens. Infinite where nothing is known of any."""
    ended_a_second = sum(
        candidate.busy / seconds
        for candidate, seconds in zip(loaded, _finish_times_s(loaded, UNKNOWN_REQUEST), strict=True)
        if seconds > 0
    )
    return (requests_ahead + 1) / ended_a_second if ended_a_second > 0 else math.inf


def _with_enough_context(
    candidates: Sequence[RoutingCandidate], context_tokens: int
) -> Sequence[RoutingCandidate]:
    """Those whose context is not known to be too short; all, where none is known to be long enough."""
    known = [c.context_length for c in candidates if c.context_length is not None]
    if known and min(known) < context_tokens <= max(known):
        return [c for c in candidates if c.context_length is None or c.context_length >= context_tokens]
    return candidates


def _finish_times_s(candidates: Sequence[RoutingCandidate], request: RequestEstimate) -> list[float]:
    """Seconds in which each would be through with what it has and with `request`. One that was not measured yet is
    taken for as fast as the fastest: so it gets a request, and is measured."""
    prefill, decode = DEFAULT_PREFILL_TOKENS_PER_S, DEFAULT_DECODE_TOKENS_PER_S
    if None in [candidate.throughput.prefill_tokens_per_s for candidate in candidates]:
        prefill = max(
            (
                c.throughput.prefill_tokens_per_s
                for c in candidates
                if c.throughput.prefill_tokens_per_s is not None
            ),
            default=prefill,
        )
    if None in [candidate.throughput.decode_tokens_per_s for candidate in candidates]:
        decode = max(
            (
                c.throughput.decode_tokens_per_s
                for c in candidates
                if c.throughput.decode_tokens_per_s is not None
            ),
            default=decode,
        )
    prompt, completion = request.prompt_tokens, request.completion_tokens
    return [
        (candidate.prompt_tokens + prompt) / (candidate.throughput.prefill_tokens_per_s or prefill)
        + (candidate.completion_tokens + completion) / (candidate.throughput.decode_tokens_per_s or decode)
        for candidate in candidates
    ]


def _throughput_grades(candidates: Sequence[RoutingCandidate]) -> tuple[int, ...]:
    """Their speeds' grades; what was not measured is taken for as fast as the fastest."""
    grades = [candidate.throughput.grade for candidate in candidates]
    fastest = max([grade for grade in grades if grade is not None], default=0) if None in grades else 0
    return tuple([fastest if grade is None else grade for grade in grades])


def _tie_breaker(candidate: RoutingCandidate) -> tuple[float, str]:
    return candidate.busy / candidate.slots, candidate.node_id


@lru_cache(maxsize=RING_CACHE_SIZE)
def rank_nodes(node_ids: tuple[str, ...], grades: tuple[int, ...], ring_position: int) -> tuple[int, ...]:
    """The nodes in the order in which this place of the ring prefers them, as indexes; each is the first in a share of
    all places that is proportional to its speed."""

    def score(index: int) -> float:
        share = (hash64(f"{ring_position}/{node_ids[index]}".encode()) + 0.5) / 2**64  # uniform in (0, 1)
        return math.log(share) / math.exp2(grades[index] / GRADES_PER_OCTAVE)

    return tuple(sorted(range(len(node_ids)), key=score, reverse=True))


def hash64(data: bytes) -> int:
    """64 bits that are the same in every process."""
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")
