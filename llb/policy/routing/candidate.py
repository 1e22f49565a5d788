"""Candidate of a routing decision, with its throughput and slots, and the estimate of a request. Pure."""

from __future__ import annotations

import math

from msgspec import Struct, field

DEFAULT_LOAD_S = 10.0

GRADES_PER_OCTAVE = 2
# Difference from the present grade at which it changes, so that a throughput between two grades does not
# flap.
GRADE_HYSTERESIS = 1.0
# Assumed ratio while only the decode throughput has been measured.
PREFILL_DECODE_RATIO = 10.0
# Prompt and completion tokens of the reference request that turns a throughput into one number.
REFERENCE_TOKENS = 200


class Throughput(Struct):
    """Measured throughput of a model on a node: tokens per second of all its slots together.

    `grade` is its logarithm in half octaves.
    """

    prefill_tokens_per_s: float | None = None
    decode_tokens_per_s: float | None = None
    grade: int | None = None

    def update(self, prefill_tokens_per_s: float | None, decode_tokens_per_s: float | None) -> None:
        """Set the last measured values, and the grade if it changed enough."""
        prefill, decode = prefill_tokens_per_s or None, decode_tokens_per_s or None
        # Both are often unchanged, and setting a field takes three times as long as reading it.
        if prefill != self.prefill_tokens_per_s:
            self.prefill_tokens_per_s = prefill
        if decode != self.decode_tokens_per_s:
            self.decode_tokens_per_s = decode
        if decode is not None:
            # Inlined `estimate_duration_s`, because every answer passes here.
            prefill = prefill or PREFILL_DECODE_RATIO * decode
            seconds = REFERENCE_TOKENS / prefill + REFERENCE_TOKENS / decode
            exact = -GRADES_PER_OCTAVE * math.log2(seconds)
            if self.grade is None or abs(exact - self.grade) > GRADE_HYSTERESIS:
                self.grade = round(exact)

    def estimate_duration_s(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return the duration of a request without any other, infinite if nothing has been measured."""
        if self.decode_tokens_per_s is None:
            return math.inf
        prefill = self.prefill_tokens_per_s or PREFILL_DECODE_RATIO * self.decode_tokens_per_s
        return prompt_tokens / prefill + completion_tokens / self.decode_tokens_per_s


class SharedSlots(Struct, eq=False):
    """Requests at a time that an endpoint takes, of all its models together."""

    slots: int
    busy: int = 0


class RoutingCandidate(Struct, eq=False):
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


class RequestEstimate(Struct):
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
