"""Verification of downloads: the sha256 of a file is compared with the one of its specification."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from llb.node.download.download_errors import DownloadCancelled, DownloadFailed
from llb.node.files import FileStamp, compute_sha256, file_stamp_of
from llb.texts.coded_text import CodedText
from llb.wire import FileSpec

log = logging.getLogger(__name__)

# A second damaged file is no accident: something between here and the Hub sends it again.
MAX_HUB_MISMATCHES = 2


class DownloadVerifier:
    """Verifier of one file, as it is found on the disk or as it was downloaded."""

    def __init__(self, spec: FileSpec) -> None:
        self._spec = spec
        self._hub_mismatches = 0

    def find_verified_file(
        self, path: Path, cancelled: threading.Event, on_progress: Callable[[int], None]
    ) -> FileStamp | None:
        """Return the stamp of the file at `path` if that has the right content, which is read; else None.

        `on_progress` is called with the number of bytes read so far. Raises `DownloadCancelled`, OSError.
        """
        try:
            stamp = file_stamp_of(path.stat())
        except FileNotFoundError:
            return None
        if stamp.size_bytes != self._spec.size_bytes:
            return None
        sha256 = compute_sha256(path, cancelled, on_progress)
        if cancelled.is_set():
            raise DownloadCancelled
        return stamp if sha256 == self._spec.sha256 else None

    def accepts(self, sha256: str) -> bool:
        """Return whether a complete download has the right content."""
        if sha256 != self._spec.sha256:
            log.warning("%s: wrong sha256 %s", self._spec.name, sha256)
            return False
        return True

    def record_hub_mismatch(self) -> None:
        """Count a wrong file of which the Hub sent every byte; raises `DownloadFailed` for the second one."""
        self._hub_mismatches += 1
        if self._hub_mismatches == MAX_HUB_MISMATCHES:
            text = CodedText(
                "sha256_mismatch",
                "The sha256 of {file} was wrong twice: the Hub, "
                "or a mirror or proxy in between, sends a damaged file",
                file=self._spec.name,
            )
            raise DownloadFailed(text, "sha256_mismatch")
