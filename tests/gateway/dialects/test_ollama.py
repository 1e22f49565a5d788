"""Ollama's dialect as pure translation: what is asked becomes OpenAI's, what is answered becomes lines."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llb.api.request_body import decode_json
from llb.errors import InvalidRequest, QueueFull
from llb.gateway.dialects import ollama_request, ollama_response
from llb.gateway.dialects.ollama_response import RequestClock, ResponseShape, ResponseTranslator
from llb.gateway.stream.sse import format_error_event
from llb.wire import InferenceFields

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


def lines(*pieces: bytes, shape: ResponseShape = ResponseShape.CHAT) -> list[dict[str, Any]]:
    """What a client reads of a stream that comes in these pieces."""
    answer = ResponseTranslator("m:latest", shape, CLOCK)
    text = b"".join([*map(answer.feed, pieces), answer.finish()])
    assert text.endswith(b"\n")
    return [json.loads(line) for line in text.decode().splitlines()]


# --- what is answered --------------------------------------------------------------------------------


def test_a_stream_becomes_a_line_a_piece_and_a_last_one_that_counts() -> None:
    stream = sse(
        delta(role="assistant", content=None),
        delta(reasoning_content="Hm."),
        delta(content="Hel"),
        delta(content="lo"),
        delta("length"),
        USAGE,
    )
    told = lines(stream + DONE)
    assert [line["message"] for line in told] == [
        {"role": "assistant", "content": "", "thinking": "Hm."},
        {"role": "assistant", "content": "Hel"},
        {"role": "assistant", "content": "lo"},
        {"role": "assistant", "content": ""},
    ]
    assert [line["done"] for line in told] == [False, False, False, True]
    assert {line["model"] for line in told} == {"m:latest"}
    assert {line["created_at"] for line in told} == {"2026-11-26T12:00:00.000005Z"}
    assert COUNTS.items() <= told[-1].items()
    assert told[-1]["done_reason"] == "length"
    assert "eval_count" not in told[0]
    assert lines(stream) == told  # an engine that ends without the mark


def test_a_completion_becomes_lines_of_generate() -> None:
    told = lines(
        sse({"choices": [{"text": "a", "finish_reason": None}]}, {"choices": [{"text": "", "finish_reason": "stop"}]}, USAGE) + DONE,
        shape=ResponseShape.GENERATE,
    )  # fmt: skip
    assert [line["response"] for line in told] == ["a", ""]
    assert told[-1]["done_reason"] == "stop"
    assert "message" not in told[0]


def test_calls_of_functions_are_told_whole() -> None:
    def call(index: int, **function: str) -> dict[str, Any]:
        return delta(tool_calls=[{"index": index, "id": f"c{index}", "function": function}])

    told = lines(
        sse(
            call(0, name="weather", arguments='{"city": "Os'),
            call(0, arguments='lo"}'),
            call(1, name="cut", arguments='{"city": "Ber'),
            delta("tool_calls"),
            USAGE,
        )
        + DONE
    )
    [calls, last] = told
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
    told = json.loads(
        ResponseTranslator("m", ResponseShape.CHAT, CLOCK).translate_document(json.dumps(document).encode())
    )
    assert told["message"]["content"] == "Hello"
    assert told["message"]["thinking"] == "Hm."
    assert [call["function"]["index"] for call in told["message"]["tool_calls"]] == [0, 1]
    assert COUNTS.items() <= told.items()
    told = json.loads(
        ResponseTranslator("m", ResponseShape.GENERATE, CLOCK).translate_document(
            b'{"choices": [{"text": "x"}], "timings": {"prompt_n": 2}}'
        )
    )
    assert (told["response"], told["prompt_eval_count"], told["done"]) == ("x", 2, True)


def test_an_error_is_the_last_line() -> None:
    begun = sse(delta(content="a"))
    [_, last] = lines(begun + format_error_event(QueueFull("The queue is full")) + begun + DONE)
    assert last == {"error": "The queue is full"}
    inside = {"error": {"code": 500, "message": "cannot read /srv/models/x/y.gguf", "type": "server_error"}}
    [_, last] = lines(begun + sse(inside) + DONE)
    assert last == {"error": "The engine failed to answer this request"}


def test_what_ends_a_line_elsewhere_ends_none_here() -> None:
    said = "a\x85b\u2028c\u2029d\x0be\x1cf\ng\r"
    assert [line["message"]["content"] for line in lines(sse(delta(content=said)))] == [said, ""]


def test_vectors_are_passed_on_as_they_are() -> None:
    found = b'{"data": [{"index": 1, "embedding": [3]}, {"index": 0, "embedding": [1.50, 2e-3]}], "usage": {"prompt_tokens": 7}}'
    told = ollama_response.translate_embeddings(found, "m", CLOCK)
    assert b"[[1.50, 2e-3],[3]]" in told
    assert json.loads(told)["prompt_eval_count"] == 7
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
def test_however_a_stream_is_cut_its_lines_are_the_same(
    cut: tuple[bytes, list[bytes]], shape: ResponseShape
) -> None:
    whole, pieces = cut
    told = lines(whole, shape=shape)
    assert lines(*pieces, shape=shape) == told
    assert sum(1 for line in told if line.get("done") or "error" in line) == 1
    assert told[-1].get("done") or "error" in told[-1]


# --- what is asked -----------------------------------------------------------------------------------


def chat(**body: Any) -> dict[str, Any]:
    wish = msgspec.convert(
        {"model": "m", "messages": [{"role": "user", "content": "x"}], **body}, ollama_request.ChatRequest
    )
    question = ollama_request.translate_chat(wish)
    assert question is not None
    assert question.path == "/v1/chat/completions"
    return question.document


def generate(**body: Any) -> ollama_request.EngineRequest | None:
    return ollama_request.translate_generate(
        msgspec.convert({"model": "m", **body}, ollama_request.GenerateRequest)
    )


def test_a_chat_streams_unless_it_says_otherwise() -> None:
    assert chat() == {
        "messages": [{"role": "user", "content": "x"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert chat(stream=False)["stream"] is False
    assert ollama_request.translate_chat(ollama_request.ChatRequest(model="m", messages=[])) is None


def test_options_that_an_engine_has_are_passed_on_and_others_ignored() -> None:
    document = chat(
        options={"num_predict": 7.0, "temperature": 0, "top_k": 40, "seed": 5, "stop": ["a"], "num_ctx": 9, "wings": 2}
    )  # fmt: skip
    given = {key: document[key] for key in document.keys() - {"messages", "stream", "stream_options"}}
    assert given == {"max_tokens": 7, "temperature": 0.0, "top_k": 40.0, "seed": 5, "stop": ["a"]}
    assert "max_tokens" not in chat(options={"num_predict": -1})


def test_a_format_becomes_a_response_format() -> None:
    assert chat(format="json")["response_format"] == {"type": "json_object"}
    schema = {"type": "object"}
    assert chat(format=schema)["response_format"]["json_schema"]["schema"] == schema
    assert "response_format" not in chat(format="")
    raw = generate(prompt="x", raw=True, format=schema)
    assert raw is not None
    assert raw.document["json_schema"] == schema
    with pytest.raises(InvalidRequest):
        chat(format="xml")


def test_thinking_is_asked_of_the_template() -> None:
    assert chat(think=False)["chat_template_kwargs"] == {"enable_thinking": False}
    assert chat(think="low")["chat_template_kwargs"]["reasoning_effort"] == "low"
    with pytest.raises(InvalidRequest):
        chat(think="hard")


def test_images_become_data_urls() -> None:
    [message] = chat(messages=[{"role": "user", "content": "What?", "images": ["/9j/4AAQ"]}])["messages"]
    assert message["content"] == [
        {"type": "text", "text": "What?"},
        {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,/9j/4AAQ"}},
    ]


def test_calls_and_their_results_find_each_other() -> None:
    call = {"function": {"name": "f", "arguments": {"a": 1}}}
    messages = chat(
        messages=[
            {"role": "assistant", "thinking": "Hm.", "tool_calls": [call, call]},
            {"role": "tool", "content": "one", "tool_name": "f"},
            {"role": "tool", "content": "two"},
            {"role": "assistant", "tool_calls": [{**call, "id": "own"}]},
            {"role": "tool", "content": "three", "tool_call_id": "own"},
        ]
    )["messages"]
    assert [item["id"] for item in messages[0]["tool_calls"]] == ["call_0", "call_1"]
    assert messages[0]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a":1}'}
    assert messages[0]["reasoning_content"] == "Hm."
    assert [message.get("tool_call_id") for message in messages] == [None, "call_0", "call_1", None, "own"]


def test_a_prompt_is_a_conversation_unless_it_is_raw() -> None:
    question = generate(prompt="x", system="Be kind.", images=["iVBORw0"])
    assert question is not None
    assert [message["role"] for message in question.document["messages"]] == ["system", "user"]
    raw = generate(prompt="<|x|>", raw=True)
    assert raw is not None
    assert (raw.path, raw.document["prompt"]) == ("/v1/completions", "<|x|>")
    assert generate() is None
    assert generate(prompt="") is None


@pytest.mark.parametrize(
    "body", [{"template": "{{ .Prompt }}"}, {"suffix": "}"}, {"context": [1]}, {"raw": True, "system": "x"}]
)
def test_what_cannot_be_done_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        generate(prompt="x", **body)
    assert refused.value.details["param"] in body


def test_models_may_be_called_by_their_old_field() -> None:
    assert ollama_request.NamedModel(name="m").requested_model == "m"
    with pytest.raises(InvalidRequest):
        _ = ollama_request.NamedModel().requested_model


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
OPTIONS = st.dictionaries(st.sampled_from(ollama_request.Options.__struct_fields__), values, max_size=4)


@given(
    st.fixed_dictionaries(
        {"model": st.just("m"), "prompt": words},
        optional={
            "options": OPTIONS, "format": values, "think": values, "stream": values, "images": values, "raw": values,
            "system": values, "messages": st.lists(values, max_size=2), "tools": values, "input": values,
        },
    )
)  # fmt: skip
def test_whatever_is_asked_is_translated_or_refused(body: dict[str, Any]) -> None:
    """Nothing that a client sends becomes an error of ours."""
    translations: list[tuple[Any, Any]] = [
        (ollama_request.ChatRequest, ollama_request.translate_chat),
        (ollama_request.GenerateRequest, ollama_request.translate_generate),
        (ollama_request.EmbedRequest, ollama_request.translate_embed),
    ]
    for kind, translate in translations:
        with contextlib.suppress(InvalidRequest):
            question = translate(decode_json(json.dumps(body).encode(), kind))
            if question is not None:
                decode_json(question.encode_body("m"), InferenceFields)
