"""Errors of an exchange with an upstream server, below HTTP.

TransportError
├── ConnectError     nothing was sent: the request may go to another target
│   └── AddressRefused   the address is one that no endpoint may have
├── UpstreamClosed   the peer closed; `before_first_byte`: before the response started
│   └── EngineEnded  a node says that its engine failed; `blame`: the part of the request in it
├── UpstreamTimeout  `stage`: "header" (no response started) or "idle" (it stopped in the middle)
├── InvalidResponse  not HTTP, or larger than allowed
└── AnswerFailed     the answer of an endpoint says that it failed, or cannot be read
"""

from __future__ import annotations

from typing import Literal

from llb.engine.watch_policy import Blame


class TransportError(Exception):
    """Failure of an exchange below HTTP."""


class ConnectError(TransportError):
    """No connection could be made; nothing was sent."""

    def __init__(self, reason: str, *, is_timeout: bool = False) -> None:
        super().__init__(reason)
        self.is_timeout = is_timeout


class AddressRefused(ConnectError):
    """The name of an endpoint has an address that none may have."""


class UpstreamClosed(TransportError):
    """The connection closed before the end of the response."""

    def __init__(self, *, before_first_byte: bool, is_stale: bool = False) -> None:
        super().__init__(
            "closed before the response" if before_first_byte else "closed in the middle of the response"
        )
        self.before_first_byte = before_first_byte
        # The peer had already closed this reused connection: the request is safe to send again.
        self.is_stale = is_stale


class EngineEnded(UpstreamClosed):
    """The engine of the node failed in the middle of the response."""

    def __init__(self, blame: Blame) -> None:
        super().__init__(before_first_byte=False)
        self.blame = blame


class UpstreamTimeout(TransportError):
    """No bytes arrived within the deadline of this stage."""

    def __init__(self, stage: Literal["header", "idle"]) -> None:
        super().__init__(f"{stage} timeout")
        self.stage: Literal["header", "idle"] = stage


class InvalidResponse(TransportError):
    """The peer's response is not valid HTTP/1.1, or larger than allowed."""


class AnswerFailed(TransportError):
    """The answer of an endpoint reports an error in the middle, or cannot be read."""
