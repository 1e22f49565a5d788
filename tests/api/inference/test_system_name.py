"""Fingerprint of an engine without a version."""

from __future__ import annotations

import pytest

from llb import __version__
from llb.api.inference.system_name import name_system
from llb.gateway.http.chunk_frames import MAX_FRAME_BYTES, frame_chunk, read_events

OWN = b'"system_fingerprint":"llb-%b"' % __version__.encode()
USUAL = (
    b'data: {"choices":[{"delta":{"content":"a \\"system_fingerprint\\":\\"b0-unknown\\""}}],'
    b'"system_fingerprint":"b0-unknown","object":"chat.completion.chunk"}\n\n'
)
# With its frame, the longest that passes the parser by.
LONGEST = USUAL.replace(b"a ", b"a" * (MAX_FRAME_BYTES - len(USUAL) - 6) + b" ")
TIMED = USUAL.replace(b"}\n\n", b',"timings":{"prompt_n":1}}\n\n')
OTHER = b'data: {"system_fingerprint":"fp_1","object":"chat.completion.chunk"}\n\n'


class Pipe:
    def __init__(self) -> None:
        self.got: list[bytes] = []

    def write_chunk(self, events: bytes) -> bool:
        self.got.append(frame_chunk(events))
        return True

    def write_frame(self, events: bytes, frame: bytes, _is_single: bool) -> bool:
        assert read_events(frame) == events
        self.got.append(frame)
        return False

    async def wait_writable(self) -> None: ...


@pytest.mark.parametrize(
    "events",
    [
        USUAL,
        TIMED,
        USUAL + USUAL,
        LONGEST,
        OTHER,
        b": a comment of an engine\n\n",
        USUAL + b"data: [DONE]\n\n",
    ],
)
def test_a_pipe_rewrites_as_the_whole_does(events: bytes) -> None:
    client = Pipe()
    pipe = name_system.open_pipe(client)
    is_single = events.find(b"\n") == len(events) - 2
    was_frame = not pipe.write_frame(events, frame_chunk(events), is_single)
    pipe.write_chunk(events)
    expected = frame_chunk(name_system(events))
    assert client.got == [expected, expected]
    # What is not changed, and what is changed in the usual place, is written with its frame.
    assert was_frame == (events in (USUAL, LONGEST, OTHER) or b"fingerprint" not in events)
    assert name_system(USUAL).count(OWN) == 1
