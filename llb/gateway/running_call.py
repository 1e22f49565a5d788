"""Running call: one call from its begin to its end, answered by callbacks or by a task."""

from __future__ import annotations

from collections.abc import Callable

from llb.errors import LlbError
from llb.gateway.admission.deadlines import Deadline
from llb.gateway.admission.rate_limiter import RateLimitHold
from llb.gateway.attempt import Attempt
from llb.gateway.inference_call import ClientSink, InferenceCall


class RunningCall(Deadline):
    """Call that is being answered, with the resources that it holds, its deadline and its principal's watch.

    No part of it refers back to it, so that reference counting frees it as soon as it has ended.
    """

    __slots__ = (
        "_interrupt",
        "attempt",
        "call",
        "error",
        "failure",
        "is_interrupted",
        "rate_limit",
        "sink",
    )

    def __init__(self, call: InferenceCall, sink: ClientSink) -> None:
        self.due_at = 0.0
        self.is_expired = False
        self.call = call
        self.sink = sink
        # Why the call may not continue: its principal has ended.
        self.error: LlbError | None = None
        # None for a key without limits, and before the limits are checked.
        self.rate_limit: RateLimitHold | None = None
        # Attempt whose request was sent without a task; None once a task has taken it.
        self.attempt: Attempt | None = None
        # Error of the callbacks that answered it.
        self.failure: Exception | None = None
        # The client has left, or the call may not continue.
        self.is_interrupted = False
        self._interrupt: Callable[[], object] | None = None

    def hand_over(self, interrupt: Callable[[], object] | None) -> None:
        """Set the callback that ends the call; None while no one owns the call."""
        self._interrupt = interrupt

    def interrupt(self) -> None:
        """End the call: its deadline has passed, its principal has ended, or its client has left."""
        self.is_interrupted = True
        if self._interrupt is not None:
            self._interrupt()

    # Interface of `Deadline` and `WatchedWork`.
    expire = interrupt
    on_ended = interrupt
