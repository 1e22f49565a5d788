"""What ends a command: one sentence on standard error and an exit status."""

from __future__ import annotations

INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class Failure(Exception):
    """A command could not do what it was asked; the message is one sentence for a person."""


class Refused(Failure):
    """A server said no: `code` is the contract's error code."""

    def __init__(self, message: str, *, status: int, code: str | None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Unreachable(Failure):
    """No server, or none that answers."""


class Distrusted(Unreachable):
    """Something answers, with a certificate that nobody here believes."""


def sentence(text: str) -> str:
    """`text` on one line, with a full stop."""
    line = " ".join(text.split())
    return line if line.endswith((".", "!", "?")) else f"{line}."
