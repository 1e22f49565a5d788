"""Download errors, with messages for users."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from llb.hub import HubError, HubGated, HubInvalidResponse, HubNotFound
from llb.node.download.hub_fetch import NotGguf
from llb.texts.coded_text import CodedText

UNEXPECTED_FAILURE = CodedText(
    "download_crashed", "The download failed unexpectedly; see the log of this node"
)


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
            text = CodedText(
                "file_not_gguf", "{file} is not a GGUF file: {cause}", file=file_name, cause=error.message
            )
            return DownloadFailed(text, "not_gguf")
        case HubNotFound():
            return DownloadFailed(error.message, "not_found")
        case HubGated():
            return DownloadFailed(error.message, "gated")
        case HubInvalidResponse():
            text = CodedText(
                "file_not_downloadable",
                "{file} cannot be downloaded: {cause}",
                file=file_name,
                cause=error.message,
            )
            return DownloadFailed(text, "bad_answer")
        case _:
            return DownloadFailed(error.message, "refused")


@contextmanager
def translate_disk_errors() -> Iterator[None]:
    """Context manager that raises `DownloadFailed` for an OSError in its block."""
    try:
        yield
    except OSError as error:
        message = _DISK_ERRORS.get(error.errno or 0) or CodedText(
            "disk_write_failed",
            "The file could not be written: {cause}",
            cause=error.strerror or "unknown error",
        )
        code = "insufficient_storage" if error.errno in _FULL else "disk_error"
        raise DownloadFailed(message, code) from error


_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_WRITABLE = CodedText(
    "disk_not_writable", "The models directory is not writable for the user that llb runs as"
)
_DISK_ERRORS = {
    errno.ENOSPC: CodedText(
        "disk_full", "The disk is full; free some space and retry, the downloaded bytes are kept"
    ),
    errno.EDQUOT: CodedText(
        "disk_quota",
        "The disk quota is exhausted; free some space and retry, the downloaded bytes are kept",
    ),
    errno.EROFS: CodedText("disk_read_only", "The disk is read-only"),
    errno.EACCES: _NOT_WRITABLE,
    errno.EPERM: _NOT_WRITABLE,
    errno.EIO: CodedText("disk_failing", "The disk reports an input/output error; it may be failing"),
    errno.ENOENT: CodedText(
        "file_disappeared", "The file disappeared from the models directory during the download"
    ),
    errno.ELOOP: CodedText("file_is_link", "A symbolic link is in the place of the download; remove it"),
}
