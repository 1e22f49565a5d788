"""Logs of joined nodes: their texts are not trusted."""

from __future__ import annotations

import msgspec
import pytest

from llb import errors
from llb.api.routes.logs import decode_page
from llb.wire import LogLevel, LogLine, LogPage

LINE = LogLine(
    seq=1,
    time="2027-01-31T12:00:00.000Z",
    level=LogLevel.INFO,
    source="evil\x1b]0;title\x07\nserver",
    text="one\ntwo\u202e",
    request_id="id\x9b2J",
)


def test_texts_of_a_joined_node_are_made_visible() -> None:
    page = LogPage(lines=(LINE,), next=2, sources=("server", "evil\x1b[2J"))
    decoded = decode_page(msgspec.json.encode(page))
    [line] = decoded.lines
    assert (line.source, line.text, line.request_id) == (
        r"evil\x1b]0;title\x07\nserver",
        r"one\ntwo\u202e",
        r"id\x9b2J",
    )
    assert (line.seq, line.time, line.level) == (LINE.seq, LINE.time, LINE.level)
    assert (decoded.next, decoded.sources) == (2, ("server", r"evil\x1b[2J"))


def test_a_time_that_is_none_is_no_page() -> None:
    line = msgspec.structs.replace(LINE, time="\x1b[31m")
    with pytest.raises(errors.InvalidRequest):
        decode_page(msgspec.json.encode(LogPage(lines=(line,), next=2, sources=())))
