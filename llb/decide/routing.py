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

BOUND = 1.25  # of the mean work: a node that would have more of it is not its keys' any longer
PLACES = 1024
KEPT_PLACES = 8192  # orders that are remembered, of whatever ring

# What an engine is taken for while nothing is known of any.
DEFAULT_PREFILL = 200.0  # tokens a second
DEFAULT_DECODE = 20.0
DEFAULT_LOAD_S = 10.0

GRADES_AN_OCTAVE = 2
# A speed may differ so far from its grade before it gets another: who stands between two must not go to and fro.
GRADE_SLACK = 1.0
PREFILL_TO_DECODE = 10.0  # where only the latter was measured
TYPICAL_TOKENS = 200  # computed of a prompt, and of an answer: a speed in one number


@dataclass(slots=True)
class Speed:
    """How fast a node runs a model, as far as it was measured: tokens a second, of all its slots together. `grade` is
    the logarithm of that, in half octaves."""

    prefill: float | None = None
    decode: float | None = None
    grade: int | None = None

    def measured(self, prefill: float | None, decode: float | None) -> None:
        """Take what was measured last."""
        self.prefill, self.decode = prefill or None, decode or None
        if self.decode is not None:
            seconds = self.seconds(TYPICAL_TOKENS, TYPICAL_TOKENS)
            exact = -GRADES_AN_OCTAVE * math.log2(seconds)
            if self.grade is None or abs(exact - self.grade) > GRADE_SLACK:
                self.grade = round(exact)

    def seconds(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What a request of so many tokens to compute takes alone; endless where nothing was measured."""
        if self.decode is None:
            return math.inf
        prefill = self.prefill or PREFILL_TO_DECODE * self.decode
        return prompt_tokens / prefill + completion_tokens / self.decode


@dataclass(slots=True, eq=False)
class Candidate:
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
    speed: Speed = field(default_factory=Speed)

    @property
    def free(self) -> int:
        return self.slots - self.busy


@dataclass(slots=True)
class Request:
    """What is known of a request before it is answered, all of it estimated: the tokens to compute of its prompt and to
    write, how many it has in all to fit a context, the key of its conversation (64 bits), and how it waits."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    context_tokens: int = 0
    key: int | None = None
    ahead: int = 0  # who will be served before it
    waited_s: float = 0.0


UNKNOWN = Request()


def choose(candidates: Sequence[Candidate], request: Request = UNKNOWN) -> Candidate | None:
    """A node with a free slot for `request`; None: there is none, or it is better to wait for one that is loaded."""
    if len(candidates) == 1:
        return candidates[0] if candidates[0].free > 0 else None
    fitting = _fitting(candidates, request.context_tokens)
    loaded = [candidate for candidate in fitting if candidate.loaded]
    finishes = _finishes(loaded, request)
    best, best_s = None, math.inf
    for candidate, finish_s in zip(loaded, finishes):  # noqa: B905  # of one length, and `strict` takes time
        if finish_s > best_s or candidate.busy >= candidate.slots:
            continue
        if best is None or finish_s < best_s or _tie(candidate) < _tie(best):
            best, best_s = candidate, finish_s
    if best is None:
        return _choose_cold(fitting, loaded, request)
    if request.key is not None and len(loaded) > 1:
        bound_s = BOUND * sum(finishes) / len(finishes)
        if best_s <= bound_s:
            names = tuple([candidate.node_id for candidate in loaded])
            for index in order(names, _grades(loaded), request.key % PLACES):
                if finishes[index] <= bound_s and loaded[index].free > 0:
                    return loaded[index]
    return best


def _choose_cold(
    fitting: Sequence[Candidate], loaded: Sequence[Candidate], request: Request
) -> Candidate | None:
    """The node that would answer soonest with its load, one that loads already before any other; None while a slot of a
    loaded one is likely to become free sooner. Who has waited for as long as the load takes waits no longer: so
    the two together are never more than twice what the better one would have been, however wrong the estimate is."""
    cold = [candidate for candidate in fitting if not candidate.loaded and candidate.free > 0]
    if not cold:
        return None
    soonest = min(
        zip(cold, _finishes(cold, request), strict=True),
        key=lambda pair: (pair[0].busy == 0, pair[0].load_s + pair[1], _tie(pair[0])),
    )[0]
    wait_s = max(request.waited_s, expected_wait_s(loaded, request.ahead))
    return soonest if wait_s >= soonest.load_s else None


def expected_wait_s(loaded: Sequence[Candidate], ahead: int) -> float:
    """Seconds until a slot of these nodes, all of them busy, is free for who has `ahead` others before them: each node
    ends its requests at the rate at which it works through their tokens. Infinite where nothing is known of any."""
    ended_a_second = sum(
        candidate.busy / seconds
        for candidate, seconds in zip(loaded, _finishes(loaded, UNKNOWN), strict=True)
        if seconds > 0
    )
    return (ahead + 1) / ended_a_second if ended_a_second > 0 else math.inf


def _fitting(candidates: Sequence[Candidate], tokens: int) -> Sequence[Candidate]:
    """Those whose context is not known to be too short; all, where none is known to be long enough."""
    known = [c.context_length for c in candidates if c.context_length is not None]
    if known and min(known) < tokens <= max(known):
        return [c for c in candidates if c.context_length is None or c.context_length >= tokens]
    return candidates


def _finishes(candidates: Sequence[Candidate], request: Request) -> list[float]:
    """Seconds in which each would be through with what it has and with `request`. One that was not measured yet is
    taken for as fast as the fastest: so it gets a request, and is measured."""
    prefill, decode = DEFAULT_PREFILL, DEFAULT_DECODE
    if None in [candidate.speed.prefill for candidate in candidates]:
        prefill = max((c.speed.prefill for c in candidates if c.speed.prefill is not None), default=prefill)
    if None in [candidate.speed.decode for candidate in candidates]:
        decode = max((c.speed.decode for c in candidates if c.speed.decode is not None), default=decode)
    prompt, completion = request.prompt_tokens, request.completion_tokens
    return [
        (candidate.prompt_tokens + prompt) / (candidate.speed.prefill or prefill)
        + (candidate.completion_tokens + completion) / (candidate.speed.decode or decode)
        for candidate in candidates
    ]


def _grades(candidates: Sequence[Candidate]) -> tuple[int, ...]:
    """Their speeds' grades; what was not measured is taken for as fast as the fastest."""
    grades = [candidate.speed.grade for candidate in candidates]
    fastest = max([grade for grade in grades if grade is not None], default=0) if None in grades else 0
    return tuple([fastest if grade is None else grade for grade in grades])


def _tie(candidate: Candidate) -> tuple[float, str]:
    return candidate.busy / candidate.slots, candidate.node_id


@lru_cache(maxsize=KEPT_PLACES)
def order(node_ids: tuple[str, ...], grades: tuple[int, ...], place: int) -> tuple[int, ...]:
    """The nodes in the order in which this place of the ring prefers them, as indexes; each is the first in a share of
    all places that is proportional to its speed."""

    def score(index: int) -> float:
        share = (hash_of(f"{place}/{node_ids[index]}".encode()) + 0.5) / 2**64  # uniform in (0, 1)
        return math.log(share) / math.exp2(grades[index] / GRADES_AN_OCTAVE)

    return tuple(sorted(range(len(node_ids)), key=score, reverse=True))


def hash_of(data: bytes) -> int:
    """64 bits that are the same in every process."""
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")
