"""SSE framing: whole events whatever the cuts, and the data lines in them."""

from __future__ import annotations

import tracemalloc

import pytest

from llb.errors import QueueFull
from llb.gateway.http.upstream_errors import InvalidResponse
from llb.gateway.stream.document_buffer import DocumentBuffer
from llb.gateway.stream.sse import (
    MAX_EVENT_BYTES,
    DataLineReader,
    SseFramer,
    StreamSplitter,
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


def test_a_line_without_an_end_is_bounded() -> None:
    reader = DataLineReader(max_line_bytes=100)
    assert reader.feed(b"data: 1\ndata: " + b"x" * 90) == [b"1"]
    with pytest.raises(InvalidResponse, match="line without an end"):
        reader.feed(b"x" * 20)
    # The error event that follows can be read.
    assert reader.feed(b"\n\ndata: error\n") == [b"error"]


def test_a_long_line_is_joined_once() -> None:
    reader, piece = DataLineReader(), b"data:" + b"x" * 250_000
    tracemalloc.start()
    for _ in range(40):
        assert reader.feed(piece) == []
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The pieces are kept as they came.
    assert peak_bytes < len(piece)
    [value] = reader.feed(b"\n")
    assert len(value) == 40 * len(piece) - len(b"data:")


def test_a_separator_may_be_cut_anywhere() -> None:
    stream = b"a\nb\n\n\n\nc\n\n\nrest\n"
    for size in range(1, len(stream) + 1):
        splitter = StreamSplitter(b"\n\n")
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
        parts = [part for piece in pieces for part in splitter.feed(piece)]
        assert [*parts, splitter.take_partial()] == stream.split(b"\n\n")


def test_a_document_is_bounded() -> None:
    buffer = DocumentBuffer(max_bytes=10)
    buffer.append(b"12345")
    buffer.append(b"67890")
    assert buffer.document == b"1234567890"
    with pytest.raises(InvalidResponse):
        buffer.append(b"1")
    buffer.clear()
    buffer.append(b"1")
    assert buffer.document == b"1"


def test_other_lines_have_no_data() -> None:
    assert parse_data_line(b"event: message_stop") is None
    assert parse_data_line(b": heartbeat") is None
    assert parse_data_line(b"data:{}") == b"{}"
    assert [*iter_data(LF)] == [b"1", b"2", b"3", b"[DONE]"]


def test_events_that_are_written_can_be_read() -> None:
    assert format_event(b"{}", b"ping") == b"event: ping\ndata: {}\n\n"
    [value] = iter_data(format_error_event(QueueFull("The queue is full")))
    assert b'"code":"queue_full"' in value
