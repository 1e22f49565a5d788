"""What the Hub's client raises.

HubError
├── HubUnreachable   the network, 429, 5xx, time-outs: waiting helps
├── HubNotFound      no such repository, revision or file
├── HubGated         the licence is not accepted, or there is no token to show that it is
├── HubRefused       the token is invalid or has no right; access was disabled
└── HubBadAnswer     what came is not what a Hub says
"""

from __future__ import annotations


class HubError(Exception):
    """The Hub did not give what was asked; the message is for a person and names no address, token or path."""


class HubUnreachable(HubError):
    """Waiting helps. The message is a clause ("the Hub …"); `retry_after_s` is what the Hub asked for, if it did."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class HubNotFound(HubError):
    pass


class HubGated(HubError):
    pass


class HubForbidden(HubError):
    pass


class HubInvalidResponse(HubError):
    pass
