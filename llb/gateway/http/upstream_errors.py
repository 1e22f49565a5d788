"""What can go wrong between this process and a target, below HTTP.

UpstreamFault
├── ConnectFailed    nothing was sent: the request may go to another target
├── UpstreamClosed   the peer went away; `before_first_byte` tells whether an answer had begun
├── UpstreamTimeout  `stage`: "header" (no answer began) or "idle" (it stopped in the middle)
└── BadAnswer        what came is not HTTP, or more than was allowed
"""

from __future__ import annotations

from typing import Literal


class TransportError(Exception):
    """The exchange with a target failed below HTTP."""


class ConnectError(TransportError):
    """No connection within the deadline; nothing was sent."""

    def __init__(self, reason: str, *, is_timeout: bool = False) -> None:
        super().__init__(reason)
        self.is_timeout = is_timeout


class UpstreamClosed(TransportError):
    """The connection ended before the answer did."""

    def __init__(self, *, before_first_byte: bool, is_stale: bool = False) -> None:
        super().__init__(
            "closed before its answer" if before_first_byte else "closed in the middle of its answer"
        )
        self.before_first_byte = before_first_byte
        self.is_stale = is_stale  # a kept connection that the peer had already given up: safe to send again


class UpstreamTimeout(TransportError):
    """Nothing came within the deadline of this stage."""

    def __init__(self, stage: Literal["header", "idle"]) -> None:
        super().__init__(f"{stage} deadline passed")
        self.stage: Literal["header", "idle"] = stage


class InvalidResponse(TransportError):
    """The peer does not speak HTTP/1.1 as it should, or its answer is larger than allowed."""
