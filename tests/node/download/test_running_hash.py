from __future__ import annotations

import hashlib
import random
import threading

import pytest

from llb.node.download.running_hash import LARGE_CHUNK_BYTES, RunningHash

SIZES = {
    "small": [1, 10, LARGE_CHUNK_BYTES - 1],
    "large": [LARGE_CHUNK_BYTES, LARGE_CHUNK_BYTES * 3],
    "both in turn": [LARGE_CHUNK_BYTES, 1, 0, LARGE_CHUNK_BYTES + 1, 5, LARGE_CHUNK_BYTES],
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_it_is_that_of_all_bytes_in_order(sizes: list[int]) -> None:
    threads = threading.active_count()
    content, expected = random.Random(1), hashlib.sha256()
    running = RunningHash()
    # Two buffers in turn: each is written again while the other may still be hashed.
    buffers = [bytearray(max(sizes)), bytearray(max(sizes))]
    for number, size in enumerate(sizes * 4):
        buffer = buffers[number % 2]
        buffer[:size] = content.randbytes(size)
        expected.update(buffer[:size])
        running.update(memoryview(buffer)[:size])
    assert running.hexdigest() == expected.hexdigest()
    running.close()
    running.close()
    assert threading.active_count() == threads
    assert running.hexdigest() == expected.hexdigest()


def test_it_starts_again_after_a_close() -> None:
    running, chunk = RunningHash(), bytes(LARGE_CHUNK_BYTES)
    running.update(chunk)
    running.close()
    running.restart()
    running.update(chunk)
    running.update(b"end")
    assert running.hexdigest() == hashlib.sha256(chunk + b"end").hexdigest()
    running.close()
