"""Errors of the Hub client.

HubError
├── HubUnreachable       network errors, timeouts, 429 and 5xx: a later attempt may succeed
├── HubNotFound          no such repository, revision or file
├── HubGated             the licence is not accepted, or no token proves it
├── HubForbidden         the token is invalid or lacks permission, or access is disabled
└── HubInvalidResponse   not a valid response of a Hub
"""

from __future__ import annotations


class HubError(Exception):
    """Failed request to the Hub; the message is for a person, without address, token or path."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        # The text with its code, which `str(error)` lacks.
        self.message = message


class HubUnreachable(HubError):
    """The Hub cannot be reached now; `retry_after_s` is the delay that it asked for.

    The message is a clause ("the Hub …"), in contrast to those of the other errors.
    """

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
