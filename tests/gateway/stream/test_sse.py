"""SSE framing: whole events whatever the cuts, and the data lines in them."""

from __future__ import annotations

import pytest

from llb.errors import QueueFull
from llb.gateway.stream.sse import (
    MAX_EVENT_BYTES,
    DataLineReader,
    SseFramer,
    format_error_event,
    format_event,
    iter_data,
    parse_data_line,
)

LF = b"event: a\ndata: 1\n\ndata: 2\ndata: 3\n\n: comment\n\ndata: [DONE]\n\n"
CRLF = LF.replace(b"\n", b"\r\n")


def frame(pieces: list[bytes]) -> list[bytes]:
    """What a framer passes on for each piece, and at the end."""
    framer = SseFramer()
    return [framer.feed(piece) for piece in pieces] + [framer.flush()]


@pytest.mark.parametrize("stream", [LF, CRLF], ids=["LF", "CRLF"])
def test_every_cut_passes_on_all_bytes_in_whole_events(stream: bytes) -> None:
    separator = b"\r\n\r\n" if stream is CRLF else b"\n\n"
    for first in range(1, len(stream)):
        for second in range(first, len(stream), 7):
            passed = frame([stream[:first], stream[first:second], stream[second:]])
            assert b"".join(passed) == stream
            assert all(piece.endswith(separator) for piece in passed[:-1] if piece)
            assert passed[-1] == b""


def test_what_follows_the_last_event_is_held_until_the_end() -> None:
    framer = SseFramer()
    assert framer.feed(b"data: 1\n\ndata: 2") == b"data: 1\n\n"
    assert not framer.is_mid_event
    assert framer.flush() == b"data: 2"
    assert framer.flush() == b""


def test_an_event_over_the_limit_is_passed_on_in_pieces() -> None:
    framer = SseFramer()
    giant = b"data: " + b"x" * (2 * MAX_EVENT_BYTES)
    assert framer.feed(giant) == giant
    assert framer.is_mid_event
    assert framer.feed(b"yy") == b"yy"
    assert framer.feed(b"z\n\n") == b"z\n\n"
    assert not framer.is_mid_event


def test_a_long_event_within_the_limit_is_held_whole() -> None:
    framer = SseFramer()
    half = b"data: " + b"x" * (MAX_EVENT_BYTES // 2)
    assert framer.feed(half) == b""
    assert framer.feed(b"\n\n") == half + b"\n\n"


@pytest.mark.parametrize("stream", [LF, CRLF], ids=["LF", "CRLF"])
def test_the_data_lines_do_not_depend_on_the_cuts(stream: bytes) -> None:
    for size in range(1, 20):
        reader = DataLineReader()
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
        assert [value for piece in pieces for value in reader.feed(piece)] == [b"1", b"2", b"3", b"[DONE]"]
        assert not reader.has_partial_line


def test_a_line_that_has_not_ended_is_partial() -> None:
    reader = DataLineReader()
    assert reader.feed(b"data: 1\ndata: 2") == [b"1"]
    assert reader.has_partial_line
    assert reader.feed(b"\n") == [b"2"]


def test_other_lines_have_no_data() -> None:
    assert parse_data_line(b"event: message_stop") is None
    assert parse_data_line(b": heartbeat") is None
    assert parse_data_line(b"data:{}") == b"{}"
    assert [*iter_data(LF)] == [b"1", b"2", b"3", b"[DONE]"]


def test_events_that_are_written_can_be_read() -> None:
    assert format_event(b"{}", b"ping") == b"event: ping\ndata: {}\n\n"
    [value] = iter_data(format_error_event(QueueFull("The queue is full")))
    assert b'"code":"queue_full"' in value
