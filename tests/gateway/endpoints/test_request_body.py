"""Bodies as endpoints get them."""

from __future__ import annotations

import json
from typing import Any

from llb.gateway.endpoints.request_body import build_body
from llb.wire import EndpointKind

MESSAGES = [{"role": "user", "content": "1.0e5 é \\u00e9"}]


def built(body: dict[str, Any] | str, **options: Any) -> tuple[dict[str, Any], bool]:
    raw = body if isinstance(body, str) else json.dumps(body)
    usual: dict[str, Any] = {
        "path": "/v1/chat/completions",
        "kind": EndpointKind.VLLM,
        "host": "box",
        "served_as": "there",
        "stream": False,
        "set_fields": {},
        "strip_fields": (),
    }
    outgoing = build_body(raw.encode(), **{**usual, **options})
    return json.loads(outgoing.body), outgoing.adds_usage


def test_values_pass_as_they_are() -> None:
    raw = '{"model":"x","messages":[{"content": 1.50, "a":"\\u00e9"}],"temperature":0.70,"model":"y"}'
    outgoing = build_body(
        raw.encode(),
        path="/v1/chat/completions",
        kind=EndpointKind.VLLM,
        host="box",
        served_as="there",
        stream=False,
        set_fields={},
        strip_fields=(),
    )
    assert outgoing.body == (
        b'{"model":"there","messages":[{"content": 1.50, "a":"\\u00e9"}],"temperature":0.70}'
    )


def test_fields_of_llama_server_stay_here() -> None:
    body = {"model": "x", "messages": MESSAGES, "n_predict": 3, "cache_prompt": True, "top_k": 5}
    assert built(body)[0] == {"model": "there", "messages": MESSAGES, "top_k": 5}
    assert built(body, kind=EndpointKind.LLAMA_CPP)[0] == {**body, "model": "there"}


def test_usage_is_asked_for_in_a_stream() -> None:
    fields, adds_usage = built({"model": "x", "stream": True}, stream=True)
    assert (fields["stream_options"], adds_usage) == ({"include_usage": True}, True)
    asked = {"model": "x", "stream": True, "stream_options": {"include_usage": True, "x": 1}}
    fields, adds_usage = built(asked, stream=True)
    assert (fields["stream_options"], adds_usage) == ({"include_usage": True, "x": 1}, False)
    refused = {"model": "x", "stream": True, "stream_options": None, "store": True}
    assert built(refused, stream=True, host="api.mistral.ai") == ({"model": "there", "stream": True}, False)
    assert built({"model": "x"}, stream=True, strip_fields=("stream_options",)) == ({"model": "there"}, False)


def test_openai_gets_the_new_name_of_the_limit() -> None:
    body = {"model": "x", "max_tokens": 5}
    assert built(body, host="api.openai.com")[0] == {"model": "there", "max_completion_tokens": 5}
    assert built(body)[0] == {"model": "there", "max_tokens": 5}


def test_fields_are_set_and_left_out() -> None:
    fields, _ = built(
        {"model": "x", "temperature": 1, "user": "ann"}, set_fields={"temperature": 0}, strip_fields=("user",)
    )
    assert fields == {"model": "there", "temperature": 0}
