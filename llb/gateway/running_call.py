"""Running call: one call from its begin to its end, whether callbacks answer it or a task does."""

from __future__ import annotations

from collections.abc import Callable

from llb.accounts.principal_watch import OpenWork
from llb.gateway.admission.deadlines import Deadline
from llb.gateway.admission.rate_limiter import RateLimitHold
from llb.gateway.attempt import Attempt
from llb.gateway.inference_call import ClientSink, InferenceCall


class RunningCall:
    """Call that is being answered, with what it holds."""

    __slots__ = (
        "_interrupt",
        "attempt",
        "call",
        "deadline",
        "failure",
        "is_interrupted",
        "open_work",
        "rate_limit",
        "sink",
    )

    def __init__(self, call: InferenceCall, sink: ClientSink) -> None:
        self.call = call
        self.sink = sink
        self.deadline: Deadline
        self.open_work: OpenWork
        # None for a key without limits, and before they are looked at.
        self.rate_limit: RateLimitHold | None = None
        # Whose request was sent without a task; None once a task has it.
        self.attempt: Attempt | None = None
        # Error of the callbacks that answered it.
        self.failure: Exception | None = None
        # The client has left, or the call may not go on.
        self.is_interrupted = False
        self._interrupt: Callable[[], object]

    def hand_over(self, interrupt: Callable[[], object]) -> None:
        """Call `interrupt` to end the call, from now on: another has it."""
        self._interrupt = interrupt

    def interrupt(self) -> None:
        """End the call: its deadline has passed, its principal has ended, or its client has left."""
        self.is_interrupted = True
        self._interrupt()
