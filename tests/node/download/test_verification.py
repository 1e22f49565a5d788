"""Verification of downloads: files on the disk, and complete downloads with a wrong sha256."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest

from llb.node.download.download_errors import DownloadCancelled, DownloadFailed
from llb.node.download.verification import DownloadVerifier
from llb.node.files import file_stamp_of
from llb.wire import FileSpec

CONTENT = b"GGUF and more"
SPEC = FileSpec(
    name="model.gguf", size_bytes=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest(), sources=()
)
VERIFIER = DownloadVerifier(SPEC)


def test_a_file_with_the_right_content_is_found_after_it_was_read(tmp_path: Path) -> None:
    path = tmp_path / SPEC.name
    path.write_bytes(CONTENT)
    progress: list[int] = []
    found = VERIFIER.find_verified_file(path, threading.Event(), progress.append)
    assert found == file_stamp_of(path.stat())
    assert progress == [len(CONTENT)]


@pytest.mark.parametrize("content", [None, CONTENT[:-1], CONTENT.lower()], ids=["missing", "short", "other"])
def test_no_other_file_is_found(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / SPEC.name
    if content is not None:
        path.write_bytes(content)
    assert VERIFIER.find_verified_file(path, threading.Event(), lambda _: None) is None


def test_a_cancelled_download_is_not_verified(tmp_path: Path) -> None:
    path, cancelled = tmp_path / SPEC.name, threading.Event()
    path.write_bytes(CONTENT)
    cancelled.set()
    with pytest.raises(DownloadCancelled):
        VERIFIER.find_verified_file(path, cancelled, lambda _: None)


def test_the_second_wrong_file_of_the_hub_ends_the_download() -> None:
    verifier = DownloadVerifier(SPEC)
    assert verifier.accepts(SPEC.sha256)
    assert not verifier.accepts("0" * 64)
    verifier.record_hub_mismatch()
    with pytest.raises(DownloadFailed) as failure:
        verifier.record_hub_mismatch()
    assert failure.value.code == "sha256_mismatch"
