"""How a download ends when it does not end well, in words for people."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from llb.hub import HubError, HubGated, HubInvalidResponse, HubNotFound
from llb.node.download.hub_fetch import NotGguf


class DownloadFailed(Exception):
    """A download ended for a reason that waiting will not mend; the message is for people and names no path."""

    retriable = False

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class DownloadCancelled(Exception):
    """`cancel()` ended the download; what had arrived is kept."""


def download_error_from_hub(file_name: str, error: HubError) -> DownloadFailed:
    """What it means for the file `name` that the Hub refuses it for good."""
    match error:
        case NotGguf():
            return DownloadFailed(f"{file_name} is not a GGUF file: {error}", "not_gguf")
        case HubNotFound():
            return DownloadFailed(str(error), "not_found")
        case HubGated():
            return DownloadFailed(str(error), "gated")
        case HubInvalidResponse():
            return DownloadFailed(f"{file_name} cannot be fetched: {error}", "bad_answer")
        case _:
            return DownloadFailed(str(error), "refused")


@contextmanager
def translate_disk_errors() -> Iterator[None]:
    """An OSError inside the block leaves it as a `DownloadFailed`."""
    try:
        yield
    except OSError as error:
        words, code = _DISK_ERRORS.get(
            error.errno or 0,
            (f"The file could not be written: {error.strerror or 'unknown error'}", "disk_error"),
        )
        raise DownloadFailed(words, code) from error


_DISK_ERRORS = {
    errno.ENOSPC: (
        "The disk is full; make room and try again, what has arrived is kept",
        "insufficient_storage",
    ),
    errno.EDQUOT: (
        "The disk quota is used up; make room and try again, what has arrived is kept",
        "insufficient_storage",
    ),
    errno.EROFS: ("The disk is read-only", "disk_error"),
    errno.EACCES: ("The models directory may not be written by the user llb runs as", "disk_error"),
    errno.EPERM: ("The models directory may not be written by the user llb runs as", "disk_error"),
    errno.EIO: ("The disk reports an input/output error; it may be failing", "disk_error"),
    errno.ENOENT: ("The file vanished from the models directory while it was downloaded", "disk_error"),
    errno.ELOOP: ("There is a symbolic link where the download belongs; remove it", "disk_error"),
}
