"""Errors that end a command with a message on standard error, and exit statuses."""

from __future__ import annotations

EXIT_FAILED, EXIT_USAGE = 1, 2
# 128 + SIGINT, as shells report it.
EXIT_INTERRUPTED = 130


class CommandError(Exception):
    """A command failed; the message is one sentence for the user."""


class UsageError(CommandError):
    """The command was called in a way that it refuses, such as without the confirmation that it needs."""


class ApiError(CommandError):
    """The server responded with an error; `code` is the error code of the API."""

    def __init__(self, message: str, *, status: int, code: str | None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class ServerUnreachable(CommandError):
    """No server runs, or it does not respond."""


class CertificateNotTrusted(ServerUnreachable):
    """A server responds, but its certificate cannot be verified."""


def as_sentence(text: str) -> str:
    """`text` on one line, with a full stop."""
    line = " ".join(text.split())
    return line if line.endswith((".", "!", "?")) else f"{line}."
