"""Streams of every translator: cut anywhere, broken, of any shape."""

from __future__ import annotations

import itertools
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llb.gateway.stream.sse import MAX_LINE_BYTES
from llb.gateway.translation.answer_stream import AnswerStream
from llb.gateway.translation.passthrough import ChatPassStream
from llb.gateway.translation.provider_errors import ProviderFailure
from tests.gateway.translation.builders import (
    MODEL,
    start,
)
from tests.gateway.translation.validation import (
    chat_stream,
    chunk,
    messages_stream,
)
from tests.providers import brain
from tests.providers.dialects import anthropic as anthropic_side
from tests.providers.dialects import openai as openai_side
from tests.providers.dialects.openai import Style
from tests.providers.http import sse


@pytest.mark.parametrize("reader", [chat_stream, messages_stream])
def test_a_stream_that_is_cut_is_an_error(reader: Any) -> None:
    stream = reader()
    stream.feed(sse(start()) if reader is chat_stream else sse(chunk({"content": "a"})))
    with pytest.raises(ProviderFailure, match="before its answer was complete"):
        stream.finish()


def message_bytes() -> bytes:
    answer = brain.Answer(
        thinking=["Hm", "m."],
        pieces=["Let ", "me."],
        calls=[brain.Call("a", "f", {"x": "é" * 9}), brain.Call("b", "g", {})],
    )
    answer.finish = "tool_calls"
    events = anthropic_side.message_events(MODEL, answer)
    return b": comment\n\n" + b"".join(sse(event, event["type"]) for event in events)


def chat_bytes() -> bytes:
    answer = brain.Answer(
        thinking=["Hm", "m."],
        pieces=["Let ", "me."],
        calls=[brain.Call("a", "f", {"x": "é" * 9}), brain.Call("b", "g", {})],
    )
    answer.finish = "tool_calls"
    chunks = openai_side.chat_chunks("m", answer, Style(), include_usage=True)
    return b": comment\n\n" + b"".join(map(sse, chunks)) + sse("[DONE]")


STREAMS = {
    "messages to chat": (chat_stream, message_bytes()),
    "chat to messages": (messages_stream, chat_bytes()),
    "chat": (lambda: ChatPassStream(model="m", include_usage=False), chat_bytes()),
}


@pytest.mark.parametrize("name", STREAMS)
@given(cuts=st.lists(st.integers(min_value=0, max_value=4000), max_size=20), crlf=st.booleans())
def test_a_stream_may_be_cut_anywhere(name: str, *, cuts: list[int], crlf: bool) -> None:
    make, data = STREAMS[name]
    if crlf:
        data = data.replace(b"\n", b"\r\n")
    whole: AnswerStream = make()  # type: ignore[operator]
    expected = whole.feed(data) + whole.finish()
    pieces: AnswerStream = make()  # type: ignore[operator]
    ends = [0, *sorted(cut % len(data) for cut in cuts), len(data)]
    parts = [data[start:end] for start, end in itertools.pairwise(ends)]
    assert b"".join(map(pieces.feed, parts)) + pieces.finish() == expected
    assert pieces.usage == whole.usage
    # Bytes after the end are dropped.
    assert pieces.feed(b"data: {}\n\n") == b""


@pytest.mark.parametrize("name", STREAMS)
@given(noise=st.binary(max_size=200))
def test_noise_is_a_failure_and_no_crash(name: str, noise: bytes) -> None:
    make, data = STREAMS[name]
    stream: AnswerStream = make()  # type: ignore[operator]
    with suppress(ProviderFailure):
        stream.feed(data[: len(data) // 2] + b"\n\ndata: " + noise + b"\n\n")
        stream.finish()


@pytest.mark.parametrize("name", STREAMS)
@given(
    event=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "type",
                        "choices",
                        "delta",
                        "index",
                        "usage",
                        "message",
                        "content_block",
                        "error",
                        "tool_calls",
                        "function",
                        "id",
                        "content",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_events_of_any_shape_are_no_crash(name: str, event: Any) -> None:
    stream: AnswerStream = STREAMS[name][0]()  # type: ignore[operator]
    with suppress(ProviderFailure):
        stream.feed(sse(event))
        stream.finish()


def test_a_line_without_an_end_is_bounded() -> None:
    stream: AnswerStream = STREAMS["chat"][0]()  # type: ignore[operator]
    piece = b"x" * (1024 * 1024)
    for _ in range(MAX_LINE_BYTES // len(piece)):
        assert stream.feed(piece) == b""
    with pytest.raises(ProviderFailure, match="line without an end"):
        stream.feed(piece)
