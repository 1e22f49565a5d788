"""Translation of requests in Ollama's dialect to OpenAI's."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llb.api.request_body import decode_json
from llb.errors import InvalidRequest
from llb.gateway.dialects import ollama_request
from llb.wire import InferenceFields

words = st.text(st.characters(codec="utf-8"), max_size=8)


def chat(**body: Any) -> dict[str, Any]:
    request = msgspec.convert(
        {"model": "m", "messages": [{"role": "user", "content": "x"}], **body}, ollama_request.ChatRequest
    )
    engine_request = ollama_request.translate_chat(request)
    assert engine_request is not None
    assert engine_request.path == "/v1/chat/completions"
    return engine_request.document


def generate(**body: Any) -> ollama_request.EngineRequest | None:
    return ollama_request.translate_generate(
        msgspec.convert({"model": "m", **body}, ollama_request.GenerateRequest)
    )


def test_a_chat_streams_by_default() -> None:
    assert chat() == {
        "messages": [{"role": "user", "content": "x"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert chat(stream=False)["stream"] is False
    assert ollama_request.translate_chat(ollama_request.ChatRequest(model="m", messages=[])) is None


def test_options_are_translated_and_unknown_ones_ignored() -> None:
    document = chat(
        options={
            "num_predict": 7.0,
            "temperature": 0,
            "top_k": 40,
            "seed": 5,
            "stop": ["a"],
            "num_ctx": 9,
            "wings": 2,
        }
    )
    translated = {key: document[key] for key in document.keys() - {"messages", "stream", "stream_options"}}
    assert translated == {"max_tokens": 7, "temperature": 0.0, "top_k": 40.0, "seed": 5, "stop": ["a"]}
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


def test_think_becomes_arguments_of_the_template() -> None:
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


def test_tool_calls_and_their_results_have_the_same_ids() -> None:
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


def test_a_prompt_is_a_chat_unless_it_is_raw() -> None:
    engine_request = generate(prompt="x", system="Be kind.", images=["iVBORw0"])
    assert engine_request is not None
    assert [message["role"] for message in engine_request.document["messages"]] == ["system", "user"]
    raw = generate(prompt="<|x|>", raw=True)
    assert raw is not None
    assert (raw.path, raw.document["prompt"]) == ("/v1/completions", "<|x|>")
    assert generate() is None
    assert generate(prompt="") is None


@pytest.mark.parametrize(
    "body", [{"template": "{{ .Prompt }}"}, {"suffix": "}"}, {"context": [1]}, {"raw": True, "system": "x"}]
)
def test_unsupported_fields_are_rejected(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as error:
        generate(prompt="x", **body)
    assert error.value.details["param"] in body


def test_older_clients_name_the_model_in_another_field() -> None:
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
            "options": OPTIONS, "format": values, "think": values, "stream": values, "images": values,
            "raw": values, "system": values, "messages": st.lists(values, max_size=2), "tools": values,
            "input": values,
        },
    )
)  # fmt: skip
def test_every_request_is_translated_or_rejected(body: dict[str, Any]) -> None:
    """No request makes the translation raise anything but `InvalidRequest`."""
    translations: list[tuple[Any, Any]] = [
        (ollama_request.ChatRequest, ollama_request.translate_chat),
        (ollama_request.GenerateRequest, ollama_request.translate_generate),
        (ollama_request.EmbedRequest, ollama_request.translate_embed),
    ]
    for body_type, translate in translations:
        with contextlib.suppress(InvalidRequest):
            engine_request = translate(decode_json(json.dumps(body).encode(), body_type))
            if engine_request is not None:
                decode_json(engine_request.encode_body("m"), InferenceFields)
