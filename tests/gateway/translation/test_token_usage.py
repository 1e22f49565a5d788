"""Token counts of both dialects."""

from __future__ import annotations

from typing import Any

from llb.gateway.translation.passthrough import ChatPassStream
from tests.gateway.translation.builders import (
    block,
    chat,
    end,
    message,
    start,
)
from tests.gateway.translation.validation import (
    chat_of_events,
    chat_of_message,
    chat_stream,
    chunk,
    message_of_chat,
    message_of_chunks,
    translate_whole,
)
from tests.providers.http import sse


def test_cached_tokens_are_part_of_the_one_count_and_not_of_the_other() -> None:
    counts: Any = {"input_tokens": 10, "cache_read_input_tokens": 90, "cache_creation_input_tokens": 20}
    text = [{"type": "text", "text": "a"}]
    for answer in (
        chat_of_message(message(text, **counts)),
        chat_of_events([start(**counts), *block(0, text[0]), *end("end_turn")]),
    ):
        usage = answer.usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        assert (usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens) == (120, 90)
        assert (usage.completion_tokens, usage.total_tokens) == (5, 125)
    chat_usage = {
        "prompt_tokens": 100,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 90},
    }
    for told in (
        message_of_chat(chat({"content": "a"}, usage=chat_usage)).usage,
        message_of_chunks(
            [chunk({"content": "a"}), chunk({}, "stop"), {"choices": [], "usage": chat_usage}]
        ).usage,
    ):
        assert (told.input_tokens, told.cache_read_input_tokens, told.output_tokens) == (10, 90, 5)


def test_a_count_of_zero_is_no_missing_count() -> None:
    stream = chat_stream()
    data = [start(input_tokens=0, cache_read_input_tokens=0), *block(0, {"type": "text", "text": "a"})]
    translate_whole(stream, b"".join(map(sse, [*data, *end("end_turn", output_tokens=0)])))
    assert (stream.usage.prompt_tokens, stream.usage.completion_tokens) == (0, 0)
    reader = ChatPassStream(model="m", include_usage=True)
    usage = {"prompt_tokens": 0, "completion_tokens": 0}
    translate_whole(reader, sse(chunk({"content": "a"}, "stop", usage=usage)) + sse("[DONE]"))
    assert (reader.usage.prompt_tokens, reader.usage.completion_tokens) == (0, 0)
    silent = ChatPassStream(model="m", include_usage=True)
    translate_whole(silent, sse(chunk({"content": "a"}, "stop")) + sse("[DONE]"))
    assert silent.usage.prompt_tokens is None


def test_counts_after_the_end_are_counted() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    told = message_of_chunks([chunk({"content": "a"}), chunk({}, "stop"), {"choices": [], "usage": usage}])
    assert (told.usage.input_tokens, told.usage.output_tokens, told.stop_reason) == (3, 2, "end_turn")
