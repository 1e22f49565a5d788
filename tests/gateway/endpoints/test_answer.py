"""Answers of endpoints on their way: held, renamed, shortened, translated and bounded."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from llb.errors import EndpointFailed
from llb.gateway.endpoints import answer as answer_module
from llb.gateway.endpoints.answer import EndpointAnswerSink, OpeningFilter, TranslatedAnswer
from llb.gateway.http.upstream_errors import AnswerFailed, InvalidResponse
from llb.gateway.translation.answer_stream import AnswerStream
from llb.gateway.translation.messages_answer import MessagesToChatStream, translate_message_document
from llb.gateway.translation.token_usage import TokenUsage
from tests.gateway.gateway_fixture import FakeSink
from tests.gateway.translation.builders import block, end, message, start
from tests.providers.http import sse


def chunk(**fields: Any) -> bytes:
    return sse({"choices": [{"index": 0, "delta": {}, "finish_reason": None, **fields}]})


OPENING = chunk(delta={"role": "assistant", "content": ""})
CONTENT = chunk(delta={"content": "Hi"})


# --- events before the first content -------------------------------------------------------------------


def opening_filter() -> OpeningFilter:
    return OpeningFilter("box", lambda text: text.replace("secret", "***"))


def test_events_before_the_first_content_are_held_until_it_comes() -> None:
    opening = opening_filter()
    assert opening.filter_events(b": ping\n\n") == b""
    assert opening.filter_events(OPENING) == b""
    assert not opening.is_finished
    assert opening.filter_events(CONTENT) == b": ping\n\n" + OPENING + CONTENT


@pytest.mark.parametrize(
    ("event", "is_opening"),
    [
        (b'data: {"type":"message_start","message":{}}\n\n', True),
        (b'data: {"type":"response.created"}\n\n', True),
        (b'data: {"type":"content_block_start"}\n\n', False),
        (b"data: [DONE]\n\n", True),
        (OPENING, True),
        (chunk(delta=None), False),
        (chunk(text="a"), False),
        (chunk(finish_reason="stop"), False),
        (chunk(delta={"tool_calls": [{}]}), False),
        (sse({"choices": [], "usage": {}}), False),
        (b"data: no JSON\n\n", False),
        (sse({"error": None, "choices": [{"delta": {}}]}), True),
    ],
)
def test_what_is_no_content_yet(event: bytes, is_opening: bool) -> None:
    opening = opening_filter()
    assert opening.filter_events(event) == (b"" if is_opening else event)
    assert opening.is_finished is not is_opening


def test_a_stream_that_ends_before_its_content_is_passed_on_whole() -> None:
    opening = opening_filter()
    opening.filter_events(OPENING)
    assert opening.flush() == OPENING
    begun = opening_filter()
    begun.filter_events(CONTENT)
    assert begun.flush() == b""


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ({"message": "no secret"}, "failed: no \\*\\*\\*"),
        ("busy", "failed: busy"),
        ({"message": 5}, "no reason"),
    ],
)
def test_an_error_before_the_content_is_one_of_the_endpoint(error: Any, told: str) -> None:
    opening = opening_filter()
    opening.filter_events(OPENING)
    with pytest.raises(EndpointFailed, match=told):
        opening.filter_events(sse({"error": error}))


def test_not_more_than_a_bound_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_module, "MAX_HELD_BYTES", 2 * len(OPENING))
    opening = opening_filter()
    assert opening.filter_events(OPENING) == opening.filter_events(OPENING) == b""
    assert opening.filter_events(OPENING) == 3 * OPENING


# --- names and counts ----------------------------------------------------------------------------------


def answer_sink(sink: FakeSink, **options: Any) -> EndpointAnswerSink:
    usual: dict[str, Any] = {
        "served_as": "there", "model_id": "box/there", "is_stream": False, "drops_usage": False
    }  # fmt: skip
    return EndpointAnswerSink(sink, **{**usual, **options})


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (b'{"model":"there","a":1}', b'{"model":"box/there","a":1}'),
        (b'{"model": "there"}', b'{"model": "box/there"}'),
        # A more precise name stays.
        (b'{"model":"there-0613"}', b'{"model":"there-0613"}'),
        # A text that looks like the field.
        (
            b'{"a":{"model":"there"},"model" : "there"}',
            b'{"a":{"model":"there"},"model":"box/there"}',
        ),
        (b'{"a":{"model":"there"},"b":{"model":"other"}}', b'{"a":{"model":"there"},"b":{"model":"other"}}'),
        (b'no JSON "model" "model"', b'no JSON "model" "model"'),
    ],
)
async def test_the_name_in_a_document_is_the_one_that_was_asked_for(document: bytes, expected: bytes) -> None:
    sink = FakeSink()
    answer = answer_sink(sink)
    await answer.write(document[:5])
    await answer.write(document[5:])
    assert sink.body == b""
    await answer.flush()
    await answer.flush()
    assert sink.body == expected
    assert answer_sink(FakeSink()).rewrite_document(document) == expected


async def test_a_document_with_the_same_name_is_passed_on_as_it_comes() -> None:
    sink = FakeSink()
    answer = answer_sink(sink, model_id="there")
    await answer.write(b'{"model":"the')
    assert sink.body == b'{"model":"the'


async def test_names_in_a_stream_are_replaced_and_counts_left_out() -> None:
    sink = FakeSink()
    answer = answer_sink(sink, is_stream=True, drops_usage=True)
    named = b'data: {"model":"there","choices":[{"delta":{"content":"\\"model\\":\\"there\\""}}]}\n\n'
    counts = b'data: {"model":"there","choices":[],"usage":{"prompt_tokens":1}}\n\n'
    await answer.write(named + counts)
    assert sink.body == named.replace(b'"model":"there"', b'"model":"box/there"', 1)
    # Whole chunks of counts leave nothing to write.
    sink.body = b""
    await answer.write(counts)
    assert sink.body == b""
    both = b'data: {"choices":[{"delta":{}}],"usage":null}\n\n'
    assert answer.rewrite_events(both) == both


# --- bounds --------------------------------------------------------------------------------------------


async def test_an_answer_without_an_end_is_cut_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_module, "MAX_ANSWER_BYTES", 10)
    sink = FakeSink()
    answer = answer_sink(sink, is_stream=True)
    with pytest.raises(InvalidResponse, match="without an end"):
        await answer.write(b"x" * 11)
    # The error event comes after it.
    await answer.write(b"data: {}\n\n", last=True)
    assert sink.body == b"data: {}\n\n"


async def test_a_large_document_is_passed_on_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_module, "MAX_REWRITTEN_BYTES", 10)
    sink = FakeSink()
    answer = answer_sink(sink)
    for part in (b'{"model":"there"', b',"a":1', b"}"):
        await answer.write(part)
    await answer.flush()
    assert sink.body == b'{"model":"there","a":1}'
    translated = answer_sink(FakeSink(), translate_document=lambda body: body)
    with pytest.raises(InvalidResponse, match="too large to be translated"):
        await translated.write(b"x" * 11)


# --- translation ---------------------------------------------------------------------------------------


def translated() -> TranslatedAnswer:
    return TranslatedAnswer(
        MessagesToChatStream(model="m", created=1, include_usage=False, tool_names={}),
        lambda body: translate_message_document(body, model="m", created=1, tool_names={}),
        lambda text: text.replace("secret", "***"),
    )


def test_a_document_is_translated_and_counted() -> None:
    answer = translated()
    body = json.dumps(message([{"type": "text", "text": "Hi"}])).encode()
    document = json.loads(answer.translate_document(body))
    assert document["choices"][0]["message"]["content"] == "Hi"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (10, 5)


def test_a_stream_is_translated_and_counted() -> None:
    answer = translated()
    events = [start(), *block(0, {"type": "text", "text": "Hi"}), *end("end_turn")]
    data = answer.feed(b"".join(map(sse, events))) + answer.finish()
    assert b'"content":"Hi"' in data
    assert answer.usage.completion_tokens == 5
    answer.raise_failure()


def test_failures_are_told_without_keys() -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "no secret"}}
    with pytest.raises(AnswerFailed, match=r"no \*\*\*"):
        translated().translate_document(json.dumps(error).encode())
    with pytest.raises(AnswerFailed, match=r"no \*\*\*"):
        translated().feed(sse(error))
    cut = translated()
    cut.feed(sse(start()))
    with pytest.raises(AnswerFailed, match="before its answer was complete"):
        cut.finish()


class Endless(AnswerStream):
    """A stream of whatever it gets, with content or without."""

    usage = TokenUsage()

    def __init__(self, *, has_content: bool) -> None:
        super().__init__()
        self.has_content = has_content

    def _translate(self, events: Any) -> Any:
        return (b"" for _ in events)

    def _end_stream(self) -> Any:
        return iter(())


@pytest.mark.parametrize(
    ("has_content", "bound", "told"),
    [(False, "MAX_OPENING_BYTES", "without content"), (True, "MAX_ANSWER_BYTES", "without an end")],
)
def test_pings_without_end_are_no_answer(
    monkeypatch: pytest.MonkeyPatch, has_content: bool, bound: str, told: str
) -> None:
    monkeypatch.setattr(answer_module, bound, 20)
    answer = TranslatedAnswer(cast(AnswerStream, Endless(has_content=has_content)), cast(Any, None), str)
    assert answer.feed(b"data: {}\n\n" * 2) == b""
    with pytest.raises(AnswerFailed, match=told):
        answer.feed(b"data: {}\n\n")
