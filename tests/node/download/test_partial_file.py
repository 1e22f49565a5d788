"""Partial file: what an earlier process left, what is durable, and the generations that others read."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from llb.node.download.partial_file import PartialFile, matches_gguf_magic
from llb.node.sharing.growing_file import ContentLost

CONTENT = b"GGUF" + bytes(range(200))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.gguf.partial"


def opened(path: Path, size_bytes: int = len(CONTENT)) -> PartialFile:
    partial = PartialFile(path, size_bytes)
    partial.open()
    list(partial.rehash())
    return partial


def test_a_download_continues_where_an_earlier_process_ended(path: Path, tmp_path: Path) -> None:
    path.write_bytes(CONTENT[:50])
    partial = opened(path)
    assert (partial.have_bytes, partial.is_complete) == (50, False)
    partial.append(CONTENT[50:])
    assert partial.is_complete
    assert partial.sha256 == hashlib.sha256(CONTENT).hexdigest()
    # Readers get nothing but what is written.
    assert partial.growing_file.have_bytes == len(CONTENT)
    partial.commit_to(tmp_path / "m.gguf")
    partial.close()
    assert (tmp_path / "m.gguf").read_bytes() == CONTENT
    assert not path.exists()


@pytest.mark.parametrize("left", [b"<html>no model</html>", b"GG!" + bytes(9), CONTENT + b"x"])
def test_what_cannot_be_the_beginning_of_the_file_is_discarded(path: Path, left: bytes) -> None:
    path.write_bytes(left)
    partial = opened(path)
    assert partial.have_bytes == 0
    assert path.stat().st_size == 0
    partial.append(CONTENT)
    assert partial.sha256 == hashlib.sha256(CONTENT).hexdigest()
    partial.close()


def test_a_file_that_another_program_has_too_is_not_modified(path: Path, tmp_path: Path) -> None:
    original = tmp_path / "of another program"
    original.write_bytes(CONTENT[:50])
    os.link(original, path)
    partial = opened(path)
    partial.append(b"GGUF")
    partial.close()
    assert original.read_bytes() == CONTENT[:50]
    # A complete one is only read.
    original.write_bytes(CONTENT)
    path.unlink()
    os.link(original, path)
    whole = opened(path)
    assert whole.is_complete
    whole.close()


def test_a_file_that_is_cut_while_it_is_hashed_is_discarded(path: Path) -> None:
    path.write_bytes(CONTENT[:50])
    partial = PartialFile(path, len(CONTENT))
    partial.open()
    os.truncate(path, 10)
    list(partial.rehash())
    assert partial.have_bytes == 0
    partial.close()


def test_a_new_generation_cuts_its_readers_off(path: Path) -> None:
    partial = opened(path)
    partial.append(CONTENT[:50])
    shared = partial.growing_file
    generation = shared.generation
    assert shared.read(generation, 0, 4) == b"GGUF"
    partial.discard()
    with pytest.raises(ContentLost):
        shared.read(generation, 0, 4)
    partial.close()


def test_what_is_durable_is_what_was_there_when_the_sync_began(path: Path) -> None:
    partial = opened(path)
    partial.append(CONTENT[:50])
    partial.sync_in_background()
    partial.append(CONTENT[50:60])
    partial._join_sync_thread()
    assert partial.synced_bytes == 50
    partial.sync()
    assert partial.synced_bytes == 60
    partial.close()


def test_a_sync_that_failed_in_the_background_fails_the_download(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel reports a failed write only once: ignored, the last sync would succeed."""

    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    partial = opened(path)
    partial.append(CONTENT[:50])
    with monkeypatch.context() as broken:
        broken.setattr("llb.node.download.partial_file.os.fsync", fail)
        partial.sync_in_background()
        assert partial._sync_thread is not None
        partial._sync_thread.join()
    with pytest.raises(OSError, match="Input/output"):
        partial.sync()
    assert partial.synced_bytes == 0
    partial.close()


def test_a_closed_file_takes_nothing(path: Path) -> None:
    partial = opened(path)
    partial.close()
    partial.close()
    with pytest.raises(ValueError, match="is not open"):
        partial.append(b"GGUF")


@pytest.mark.parametrize(
    ("chunk", "offset", "matches"),
    [
        (b"GGUF", 0, True),
        (b"G", 0, True),
        (b"UFx", 2, True),
        (b"x", 2, False),
        (b"anything", 4, True),
        (b"", 0, True),
    ],
)
def test_the_magic_may_come_in_pieces(chunk: bytes, offset: int, matches: bool) -> None:
    assert matches_gguf_magic(chunk, offset) is matches
