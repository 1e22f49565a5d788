"""What can go wrong between this process and a target, below HTTP.

UpstreamFault
├── ConnectFailed    nothing was sent: the request may go to another target
├── UpstreamClosed   the peer went away; `before_first_byte` tells whether an answer had begun
├── UpstreamTimeout  `stage`: "header" (no answer began) or "idle" (it stopped in the middle)
└── BadAnswer        what came is not HTTP, or more than was allowed
"""

from __future__ import annotations

from typing import Literal


class UpstreamFault(Exception):
    """The exchange with a target failed below HTTP."""


class ConnectFailed(UpstreamFault):
    """No connection within the deadline; nothing was sent."""

    def __init__(self, reason: str, *, timed_out: bool = False) -> None:
        super().__init__(reason)
        self.timed_out = timed_out


class UpstreamClosed(UpstreamFault):
    """The connection ended before the answer did."""

    def __init__(self, *, before_first_byte: bool, stale: bool = False) -> None:
        super().__init__(
            "closed before its answer" if before_first_byte else "closed in the middle of its answer"
        )
        self.before_first_byte = before_first_byte
        self.stale = stale  # a kept connection that the peer had already given up: safe to send again


class UpstreamTimeout(UpstreamFault):
    """Nothing came within the deadline of this stage."""

    def __init__(self, stage: Literal["header", "idle"]) -> None:
        super().__init__(f"{stage} deadline passed")
        self.stage: Literal["header", "idle"] = stage


class BadAnswer(UpstreamFault):
    """The peer does not speak HTTP/1.1 as it should, or its answer is larger than allowed."""
