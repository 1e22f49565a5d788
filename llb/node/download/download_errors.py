"""Download errors, with messages for users."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from llb.hub import HubError, HubGated, HubInvalidResponse, HubNotFound
from llb.node.download.hub_fetch import NotGguf


class DownloadFailed(Exception):
    """A download failed and waiting would not help. The message is for users and names no path."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class DownloadCancelled(Exception):
    """`cancel()` ended the download; the downloaded bytes are kept."""


def download_error_from_hub(file_name: str, error: HubError) -> DownloadFailed:
    """The download error of a file for an error of the Hub that a retry does not repair."""
    match error:
        case NotGguf():
            return DownloadFailed(f"{file_name} is not a GGUF file: {error}", "not_gguf")
        case HubNotFound():
            return DownloadFailed(str(error), "not_found")
        case HubGated():
            return DownloadFailed(str(error), "gated")
        case HubInvalidResponse():
            return DownloadFailed(f"{file_name} cannot be downloaded: {error}", "bad_answer")
        case _:
            return DownloadFailed(str(error), "refused")


@contextmanager
def translate_disk_errors() -> Iterator[None]:
    """Context manager that raises `DownloadFailed` for an OSError in its block."""
    try:
        yield
    except OSError as error:
        message, code = _DISK_ERRORS.get(
            error.errno or 0,
            (f"The file could not be written: {error.strerror or 'unknown error'}", "disk_error"),
        )
        raise DownloadFailed(message, code) from error


_DISK_ERRORS = {
    errno.ENOSPC: (
        "The disk is full; free some space and retry, the downloaded bytes are kept",
        "insufficient_storage",
    ),
    errno.EDQUOT: (
        "The disk quota is exhausted; free some space and retry, the downloaded bytes are kept",
        "insufficient_storage",
    ),
    errno.EROFS: ("The disk is read-only", "disk_error"),
    errno.EACCES: ("The models directory is not writable for the user that llb runs as", "disk_error"),
    errno.EPERM: ("The models directory is not writable for the user that llb runs as", "disk_error"),
    errno.EIO: ("The disk reports an input/output error; it may be failing", "disk_error"),
    errno.ENOENT: ("The file disappeared from the models directory during the download", "disk_error"),
    errno.ELOOP: ("A symbolic link is in the place of the download; remove it", "disk_error"),
}
