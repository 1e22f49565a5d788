"""Running call: one call from its begin to its end, whether callbacks answer it or a task does."""

from __future__ import annotations

from collections.abc import Callable

from llb.errors import LlbError
from llb.gateway.admission.deadlines import Deadline
from llb.gateway.admission.rate_limiter import RateLimitHold
from llb.gateway.attempt import Attempt
from llb.gateway.inference_call import ClientSink, InferenceCall


class RunningCall(Deadline):
    """Call that is being answered, with what it holds; also its own deadline and what its principal has open.

    One object: nothing in it refers back to it, so that it is freed as soon as it has ended.
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
        # Why the call may not go on: its principal has ended.
        self.error: LlbError | None = None
        # None for a key without limits, and before they are looked at.
        self.rate_limit: RateLimitHold | None = None
        # Whose request was sent without a task; None once a task has it.
        self.attempt: Attempt | None = None
        # Error of the callbacks that answered it.
        self.failure: Exception | None = None
        # The client has left, or the call may not go on.
        self.is_interrupted = False
        self._interrupt: Callable[[], object] | None = None

    def hand_over(self, interrupt: Callable[[], object] | None) -> None:
        """Call `interrupt` to end the call, from now on: another has it. None: nobody, until the next one."""
        self._interrupt = interrupt

    def interrupt(self) -> None:
        """End the call: its deadline has passed, its principal has ended, or its client has left."""
        self.is_interrupted = True
        if self._interrupt is not None:
            self._interrupt()

    # As `Deadline` and `WatchedWork` have them.
    expire = interrupt
    on_ended = interrupt
