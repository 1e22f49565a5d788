"""Chunks that come whole: what passes the parser by, and that nothing else does."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from llb.gateway.http.chunk_frames import (
    CHUNK_STARTS,
    MAX_FRAME_BYTES,
    MIN_FRAME_BYTES,
    frame_chunk,
    read_events,
)
from llb.gateway.http.connection import READ_BUFFER_BYTES, Connection, ConnectionOwner, PoolKey
from tests.gateway.fake_engine import SSE_HEAD

EVENT = b'data: {"delta":" word"}\n\n'
# Most of them mislead a reader that takes the end of a read for the end of a chunk.
BODIES = (
    EVENT,
    EVENT * 2,
    b"x" * 250 + EVENT,
    b"data: %b\n\n" % (b"y" * 1100),
    b"1a\r\n" + EVENT + b"\r\n",
    EVENT + b"\r\n",
    EVENT + b"\r\n" + EVENT,
    b"data: cut",
    b" here\n",
    b"\n",
    b"\r\n",
    frame_chunk(EVENT),
    frame_chunk(EVENT) + EVENT,
    SSE_HEAD,
    b"0\r\n\r\n" + EVENT,
)


def test_a_chunk_of_any_size_and_what_is_none() -> None:
    for size_bytes in range(16, MAX_FRAME_BYTES - 6):
        events = b"x" * (size_bytes - 2) + b"\n\n"
        frame = frame_chunk(events)
        assert frame == b"%x\r\n%b\r\n" % (size_bytes, events)
        assert MIN_FRAME_BYTES <= len(frame) <= MAX_FRAME_BYTES
        assert read_events(frame) == events
        assert not read_events(frame[:-1])
        assert not read_events(frame[1:])
        assert not read_events(frame[:-3] + b"x\r\n")
    assert not read_events(frame_chunk(EVENT) * 2)
    # Shorter ones are parsed.
    assert not any(
        read_events(frame_chunk(b"x" * size_bytes + b"\n\n")) for size_bytes in range(MIN_FRAME_BYTES - 8)
    )
    assert not any(read_events(b"\n" * length + b"\r\n") for length in range(300))
    assert not read_events(b"")
    assert not read_events(b"%X\r\n%b\r\n" % (0x1B, EVENT + b"\n"))
    assert frame_chunk(b"x" * len(CHUNK_STARTS)).startswith(b"%x\r\n" % len(CHUNK_STARTS))


@pytest.mark.parametrize("piped", [True, False])
async def test_bodies_in_any_reads(piped: bool) -> None:
    """What the parser reads, and what passes it by, is one body in the order of its bytes."""
    draw = random.Random(7)
    passed_by = 0
    for _ in range(400):
        got: list[bytes] = []
        frames: list[bytes] = []
        connection = Connection(PoolKey("127.0.0.1", 1), ConnectionOwner(lambda _: None, lambda _: None))
        transport: Any = SimpleNamespace(
            get_extra_info=lambda _name: None,
            write=lambda _data: None,
            abort=lambda: None,
            is_closing=lambda: False,
        )
        connection.connection_made(transport)
        response = connection.begin_request(b"", b"")

        def pass_frame(events: bytes, frame: bytes, got: list[bytes] = got, frames: Any = frames) -> None:
            got.append(events)
            frames.append(frame)

        def take(_has_data: bool, got: list[bytes] = got, response: Any = response) -> None:
            got.append(response.take())

        response.observe(take, 60)
        if piped:
            response.pass_frame = pass_frame
        bodies = draw.choices(BODIES, weights=[12, *[1] * (len(BODIES) - 1)], k=draw.randint(1, 12))
        reads = [SSE_HEAD]
        for body in bodies:
            frame = frame_chunk(body)
            kind = draw.random()
            if kind < 0.6:
                reads.append(frame)
            elif kind < 0.8:
                reads[-1] += frame
            else:
                cut = draw.randrange(1, len(frame))
                reads[-1] += frame[:cut]
                reads.append(frame[cut:])
        reads.append(b"0\r\n\r\n")
        for read in reads:
            assert len(read) <= READ_BUFFER_BYTES
            connection.get_buffer(-1)[: len(read)] = read
            connection.buffer_updated(len(read))
        assert response.error is None
        assert response.is_complete
        assert b"".join(got) == b"".join(bodies)
        assert response.total_bytes == sum(map(len, bodies))
        assert all(frame in reads for frame in frames)
        passed_by += len(frames)
    assert (passed_by > 300) == piped
