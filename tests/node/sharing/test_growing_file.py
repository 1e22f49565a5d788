"""Growing file: readers get available bytes of one generation only."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from pathlib import Path

import pytest

from llb.node.download.partial_file import PartialFile
from llb.node.files import FileStamp, file_stamp_of
from llb.node.sharing.growing_file import ContentLost, GrowingFile
from llb.node.sharing.peer_file_server import PeerFileServer

SIZE = 1_000_000


@pytest.fixture
def partial(tmp_path: Path) -> PartialFile:
    made = PartialFile(tmp_path / "file.partial", SIZE)
    made.open()
    assert list(made.rehash()) == []
    return made


def get_stamp(path: Path) -> FileStamp:
    return file_stamp_of(path.stat())


def test_only_what_is_written_is_read(partial: PartialFile) -> None:
    shared = partial.growing_file
    with pytest.raises(ContentLost):
        shared.read(0, 0, 10)
    partial.append(b"GGUF1234")
    assert shared.have_bytes == 8
    assert shared.read(0, 4, 100) == b"1234"
    with pytest.raises(ContentLost):
        shared.read(0, 8, 1)
    partial.close()


async def test_who_waits_is_woken_by_the_bytes(partial: PartialFile) -> None:
    waits = asyncio.ensure_future(partial.growing_file.wait_for_bytes(0, 8, 10))
    further = asyncio.ensure_future(partial.growing_file.wait_for_bytes(0, 9, 10))
    await asyncio.sleep(0)
    await asyncio.to_thread(partial.append, b"GGUF")
    await asyncio.to_thread(partial.append, b"1234")
    assert await waits
    assert not further.done()
    partial.growing_file.close()
    with pytest.raises(ContentLost):
        await further
    partial.close()


async def test_a_wait_has_an_end(partial: PartialFile) -> None:
    assert not await partial.growing_file.wait_for_bytes(0, 1, 0.01)
    assert partial.growing_file._pending_reads == {}
    partial.close()


async def test_a_download_that_begins_anew_ends_all_reading_and_waiting(partial: PartialFile) -> None:
    shared = partial.growing_file
    partial.append(b"GGUF1234")
    waits = asyncio.ensure_future(shared.wait_for_bytes(0, 9, 10))
    await asyncio.sleep(0)
    partial.discard()
    with pytest.raises(ContentLost):
        await waits
    with pytest.raises(ContentLost):
        shared.read(0, 0, 4)
    partial.append(b"GGUF")
    with pytest.raises(ContentLost):
        shared.read(0, 0, 4)
    assert shared.read(shared.generation, 0, 4) == b"GGUF"
    partial.close()


def test_who_reads_goes_on_when_the_file_gets_its_name(partial: PartialFile, tmp_path: Path) -> None:
    partial.append(b"GGUF" + bytes(SIZE - 4))
    assert (partial.growing_file.is_verified, partial.growing_file.is_growing) == (False, True)
    partial.commit_to(tmp_path / "file")
    partial.growing_file.close()
    assert (partial.growing_file.is_verified, partial.growing_file.is_growing) == (True, False)
    assert partial.growing_file.read(0, 0, 4) == b"GGUF"


@pytest.mark.parametrize("change", ["other content", "removed", "made a directory"])
def test_a_whole_file_is_read_as_long_as_it_is_the_one_that_was_verified(tmp_path: Path, change: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"GGUF" + bytes(100))
    shared = GrowingFile(path, 104, get_stamp(path))
    assert shared.read(0, 0, 200) == path.read_bytes()
    if change == "other content":
        path.write_bytes(bytes(104))
        os.utime(path, (1, 1))
    else:
        path.unlink()
    if change == "made a directory":
        path.mkdir()
    with pytest.raises(ContentLost):
        shared.read(0, 0, 4)


def test_no_read_ever_mixes_two_lives(partial: PartialFile) -> None:
    least_lives, read = 30, []
    ended = threading.Event()

    def reader() -> None:
        while not ended.is_set():
            life, have = partial.growing_file.generation, partial.growing_file.have_bytes
            try:
                piece = partial.growing_file.read(life, max(0, have - 50_000), 100_000)
            except ContentLost:
                continue
            read.append((life, piece))

    readers = [threading.Thread(target=reader) for _ in range(2)]
    for thread in readers:
        thread.start()
    for life in itertools.count():
        for _ in range(10):
            partial.append(bytes([life % 256]) * 10_000)
        partial.discard()
        # On a busy machine the readers get their first turn late.
        if life >= least_lives and read:
            break
    ended.set()
    for thread in readers:
        thread.join(10)
    partial.close()
    for life, piece in read:
        assert set(piece) == {life % 256}


async def test_pieces_follow_the_download_to_its_end(partial: PartialFile, tmp_path: Path) -> None:
    offers = PeerFileServer(lambda _model, _sha256: partial.growing_file)
    got = bytearray()

    async def follow() -> None:
        async for piece in offers.iter_chunks(partial.growing_file, 0, 0):
            got.extend(piece)

    following = asyncio.ensure_future(follow())
    content = b"GGUF" + os.urandom(SIZE - 4)
    for at in range(0, SIZE, 50_000):
        await asyncio.to_thread(partial.append, content[at : at + 50_000])
    await asyncio.to_thread(partial.commit_to, tmp_path / "file")
    await asyncio.wait_for(following, 10)
    assert bytes(got) == content
    offers.close()
