"""Destination of the log: a file that rotates, the journal of systemd, or standard error."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import IO, Any

from llb.errors import SetupError

MAX_FILE_BYTES = 10_000_000
# Older files kept next to the one in use, as FILE.1 (the newest) to FILE.5.
ROTATED_FILES = 5


class LogFile(RotatingFileHandler):
    """Log file with access for its owner only, which rotates at `MAX_FILE_BYTES`."""

    def __init__(self, path: Path) -> None:
        """Raises `SetupError` if the file cannot be written."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            super().__init__(
                path,
                maxBytes=MAX_FILE_BYTES,
                backupCount=ROTATED_FILES,
                encoding="utf-8",
                errors="backslashreplace",
            )
        except OSError as error:
            raise SetupError(
                f"The log file {path} cannot be written: {error.strerror or error}; name another one with "
                "--log-file."
            ) from None

    def reopen(self) -> None:
        """Continue in a new file if another program, such as logrotate, has moved this one."""
        with contextlib.suppress(OSError), self.lock or contextlib.nullcontext():
            opened = self._open()
            self.stream, previous = opened, self.stream
            if previous is not None:
                previous.close()

    def handleError(self, record: logging.LogRecord) -> None:
        """Write the line to standard error: the disk of the file may be full."""
        with contextlib.suppress(Exception):
            sys.stderr.write(f"{self.format(record)}\n")

    def _open(self) -> TextIOWrapper:
        def open_private(path: str, flags: int) -> int:
            return os.open(path, flags, 0o600)

        file: IO[Any] = open(  # noqa: SIM115
            self.baseFilename, self.mode, encoding=self.encoding, errors=self.errors, opener=open_private
        )
        assert isinstance(file, TextIOWrapper)  # noqa: S101
        return file


class LogOutput:
    """Handler of the log, and the sentence that names its destination."""

    def __init__(self, path: Path | None) -> None:
        """`path` is the log file, None for standard error. Raises `SetupError`."""
        self.path = path
        self.is_journal = path is None and _is_journal(sys.stderr)
        self.handler: logging.Handler = logging.StreamHandler(sys.stderr) if path is None else LogFile(path)

    @property
    def description(self) -> str | None:
        """Where the log is, for the banner; None for standard error, where it shows."""
        if self.path is not None:
            return (
                f"Log: {self.path}, rotated at {MAX_FILE_BYTES // 1_000_000} MB, {ROTATED_FILES} older stay"
            )
        return "Log: the journal of systemd, which rotates it (journalctl)" if self.is_journal else None

    def reopen(self) -> None:
        """Open the log file again."""
        if isinstance(self.handler, LogFile):
            self.handler.reopen()


def _is_journal(stream: Any) -> bool:
    """Whether `stream` goes to the journal, as systemd.exec(5) says how to find out."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))
