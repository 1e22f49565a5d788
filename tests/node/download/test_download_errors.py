"""Errors of downloads: sentences for users, which name no path."""

from __future__ import annotations

import errno

import pytest

from llb.node.download.download_errors import DownloadFailed, translate_disk_errors


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (errno.ENOSPC, "insufficient_storage", "The disk is full"),
        (errno.EDQUOT, "insufficient_storage", "quota"),
        (errno.EROFS, "disk_error", "read-only"),
        (errno.EACCES, "disk_error", "not writable for the user"),
        (errno.EIO, "disk_error", "may be failing"),
        (errno.ENOENT, "disk_error", "disappeared"),
        (errno.EMFILE, "disk_error", "The file could not be written: Too many open files"),
    ],
)
def test_an_error_of_the_disk_says_what_to_do(number: int, code: str, words: str) -> None:
    with pytest.raises(DownloadFailed) as failed, translate_disk_errors():
        raise OSError(number, "Too many open files", "/secret/path")
    assert failed.value.code == code
    assert words in failed.value.message
    assert "/secret" not in failed.value.message


def test_an_error_without_a_number_has_a_sentence_and_others_pass() -> None:
    with pytest.raises(DownloadFailed, match="could not be written: unknown error"), translate_disk_errors():
        raise OSError
    with pytest.raises(ZeroDivisionError), translate_disk_errors():
        raise ZeroDivisionError
