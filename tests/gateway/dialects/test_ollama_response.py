"""Translation of an engine's answers to Ollama's dialect."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from llb.errors import QueueFull
from llb.gateway.dialects import ollama_response
from llb.gateway.dialects.ollama_response import RequestClock, ResponseShape, ResponseTranslator
from llb.gateway.stream.sse import format_error_event

NOW = datetime(2026, 11, 26, 12, 0, 0, 5, tzinfo=UTC)
CLOCK = RequestClock(now=lambda: NOW, total_s=lambda: 2.5, load_s=lambda: 0.25)


def sse(*events: object) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


def delta(finish: str | None = None, **part: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": part, "finish_reason": finish}], "model": "m"}


USAGE = {
    "choices": [],
    "usage": {"prompt_tokens": 12, "completion_tokens": 3},
    "timings": {"cache_n": 4, "prompt_n": 8, "prompt_ms": 1.5, "predicted_n": 3, "predicted_ms": 30.25},
}
DONE = b"data: [DONE]\n\n"
COUNTS = {
    "total_duration": 2_500_000_000,
    "load_duration": 250_000_000,
    "prompt_eval_count": 12,
    "prompt_eval_duration": 1_500_000,
    "eval_count": 3,
    "eval_duration": 30_250_000,
}


def translate(*pieces: bytes, shape: ResponseShape = ResponseShape.CHAT) -> list[dict[str, Any]]:
    """Return the lines that a client reads of a stream that arrives in `pieces`."""
    translator = ResponseTranslator("m:latest", shape, CLOCK)
    text = b"".join([*map(translator.feed, pieces), translator.finish()])
    assert text.endswith(b"\n")
    return [json.loads(line) for line in text.decode().splitlines()]


def test_a_stream_becomes_lines_and_the_last_has_the_counts() -> None:
    stream = sse(
        delta(role="assistant", content=None),
        delta(reasoning_content="Hm."),
        delta(content="Hel"),
        delta(content="lo"),
        delta("length"),
        USAGE,
    )
    lines = translate(stream + DONE)
    assert [line["message"] for line in lines] == [
        {"role": "assistant", "content": "", "thinking": "Hm."},
        {"role": "assistant", "content": "Hel"},
        {"role": "assistant", "content": "lo"},
        {"role": "assistant", "content": ""},
    ]
    assert [line["done"] for line in lines] == [False, False, False, True]
    assert {line["model"] for line in lines} == {"m:latest"}
    assert {line["created_at"] for line in lines} == {"2026-11-26T12:00:00.000005Z"}
    assert COUNTS.items() <= lines[-1].items()
    assert lines[-1]["done_reason"] == "length"
    assert "eval_count" not in lines[0]
    # An engine that ends without `[DONE]`.
    assert translate(stream) == lines


def test_a_completion_becomes_generate_lines() -> None:
    lines = translate(
        sse(
            {"choices": [{"text": "a", "finish_reason": None}]},
            {"choices": [{"text": "", "finish_reason": "stop"}]},
            USAGE,
        )
        + DONE,
        shape=ResponseShape.GENERATE,
    )
    assert [line["response"] for line in lines] == ["a", ""]
    assert lines[-1]["done_reason"] == "stop"
    assert "message" not in lines[0]


def test_tool_calls_are_sent_complete() -> None:
    def call(index: int, **function: str) -> dict[str, Any]:
        return delta(tool_calls=[{"index": index, "id": f"c{index}", "function": function}])

    lines = translate(
        sse(
            call(0, name="weather", arguments='{"city": "Os'),
            call(0, arguments='lo"}'),
            call(1, name="cut", arguments='{"city": "Ber'),
            delta("tool_calls"),
            USAGE,
        )
        + DONE
    )
    [calls, last] = lines
    assert calls["message"]["tool_calls"] == [
        {"function": {"name": "weather", "arguments": {"city": "Oslo"}, "index": 0}, "id": "c0"}
    ]
    assert (calls["done"], last["done"], last["done_reason"]) == (False, True, "stop")


def test_a_document_becomes_one_line() -> None:
    message = {
        "content": "Hello",
        "reasoning_content": "Hm.",
        "tool_calls": [{"id": "x", "function": {"name": "f", "arguments": "{}"}}] * 2,
    }
    document = {**USAGE, "choices": [{"message": message, "finish_reason": "stop"}]}
    line = json.loads(
        ResponseTranslator("m", ResponseShape.CHAT, CLOCK).translate_document(json.dumps(document).encode())
    )
    assert line["message"]["content"] == "Hello"
    assert line["message"]["thinking"] == "Hm."
    assert [call["function"]["index"] for call in line["message"]["tool_calls"]] == [0, 1]
    assert COUNTS.items() <= line.items()
    line = json.loads(
        ResponseTranslator("m", ResponseShape.GENERATE, CLOCK).translate_document(
            b'{"choices": [{"text": "x"}], "timings": {"prompt_n": 2}}'
        )
    )
    assert (line["response"], line["prompt_eval_count"], line["done"]) == ("x", 2, True)


def test_an_error_is_the_last_line() -> None:
    start = sse(delta(content="a"))
    [_, last] = translate(start + format_error_event(QueueFull("The queue is full")) + start + DONE)
    assert last == {"error": "The queue is full"}
    engine_error = {
        "error": {"code": 500, "message": "cannot read /srv/models/x/y.gguf", "type": "server_error"}
    }
    [_, last] = translate(start + sse(engine_error) + DONE)
    assert last == {"error": "The engine failed to answer this request"}


def test_unicode_line_separators_are_escaped() -> None:
    text = "a\x85b\u2028c\u2029d\x0be\x1cf\ng\r"
    assert [line["message"]["content"] for line in translate(sse(delta(content=text)))] == [text, ""]


def test_embeddings_are_copied_unchanged() -> None:
    body = (
        b'{"data": [{"index": 1, "embedding": [3]}, {"index": 0, "embedding": [1.50, 2e-3]}], '
        b'"usage": {"prompt_tokens": 7}}'
    )
    translated = ollama_response.translate_embeddings(body, "m", CLOCK)
    assert b"[[1.50, 2e-3],[3]]" in translated
    assert json.loads(translated)["prompt_eval_count"] == 7
    assert (
        ollama_response.translate_legacy_embedding(b'{"data": [{"embedding": [1.0]}]}')
        == b'{"embedding":[1.0]}'
    )


words = st.text(st.characters(codec="utf-8"), max_size=8)
events = st.one_of(
    st.builds(lambda text: delta(content=text), words),
    st.builds(lambda text: delta(reasoning_content=text), words),
    st.builds(
        lambda index, text: delta(
            tool_calls=[{"index": index, "function": {"name": "f", "arguments": text}}]
        ),
        st.integers(0, 2),
        st.sampled_from(['{"a":', "1}", "{}", "x"]),
    ),
    st.just(delta("stop")),
    st.just(USAGE),
    st.just({"error": {"message": "over", "code": "engine_failed"}}),
)
noise = st.sampled_from([b": comment\n\n", b"\r\n", b"event: x\n", b"data: {half\n\n", DONE])


@st.composite
def cut_streams(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    parts = draw(st.lists(st.one_of(st.builds(sse, events), noise), max_size=12))
    crlf = draw(st.booleans())
    stream = b"".join(part.replace(b"\n", b"\r\n") if crlf else part for part in parts)
    stream = stream[: draw(st.integers(0, len(stream)))] if draw(st.booleans()) else stream
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    return stream, [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


@given(cut_streams(), st.sampled_from(ResponseShape))
def test_the_lines_do_not_depend_on_how_a_stream_is_cut(
    cut: tuple[bytes, list[bytes]], shape: ResponseShape
) -> None:
    stream, pieces = cut
    lines = translate(stream, shape=shape)
    assert translate(*pieces, shape=shape) == lines
    assert sum(1 for line in lines if line.get("done") or "error" in line) == 1
    assert lines[-1].get("done") or "error" in lines[-1]
