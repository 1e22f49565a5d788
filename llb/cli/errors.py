"""What ends a command: one sentence on standard error and an exit status."""

from __future__ import annotations

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class CommandError(Exception):
    """A command could not do what it was asked; the message is one sentence for a person."""


class ApiError(CommandError):
    """A server said no: `code` is the contract's error code."""

    def __init__(self, message: str, *, status: int, code: str | None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class ServerUnreachable(CommandError):
    """No server, or none that answers."""


class CertificateNotTrusted(ServerUnreachable):
    """Something answers, with a certificate that nobody here believes."""


def as_sentence(text: str) -> str:
    """`text` on one line, with a full stop."""
    line = " ".join(text.split())
    return line if line.endswith((".", "!", "?")) else f"{line}."
