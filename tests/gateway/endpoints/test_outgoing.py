"""Request as an endpoint gets it: its dialect, and which answers are looked at."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from llb.errors import InvalidRequest
from llb.gateway.endpoints.outgoing import OutgoingRequest, build_request
from llb.gateway.inference_call import InferenceCall
from llb.gateway.translation.chat_answer import ChatToMessagesStream
from llb.gateway.translation.messages_answer import MessagesToChatStream
from llb.gateway.translation.passthrough import ChatPassStream
from llb.wire import EndpointKind
from tests.gateway.endpoints.endpoint_fixture import make_endpoint
from tests.gateway.gateway_fixture import make_call

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
USER = {"role": "user", "content": "u"}


def call_of(path: str, *, stream: bool = False, **fields: Any) -> InferenceCall:
    body = {"model": "box/there", "messages": [USER], **fields}
    return replace(make_call(stream=stream), path=path.encode(), body=json.dumps(body).encode())


def build(call: InferenceCall, kind: EndpointKind, **settings: Any) -> OutgoingRequest:
    return build_request(call, make_endpoint(kind=kind, **settings), "there")


@pytest.mark.parametrize(
    ("path", "kind", "sent_to", "stream"),
    [
        (CHAT, EndpointKind.VLLM, CHAT, None),
        (CHAT, EndpointKind.GOOGLE, CHAT, ChatPassStream),
        (CHAT, EndpointKind.ANTHROPIC, MESSAGES, MessagesToChatStream),
        (MESSAGES, EndpointKind.ANTHROPIC, MESSAGES, None),
        (MESSAGES, EndpointKind.OPENAI_COMPATIBLE, CHAT, ChatToMessagesStream),
        ("/v1/completions", EndpointKind.GOOGLE, "/v1/completions", None),
    ],
)
def test_an_endpoint_without_the_dialect_is_asked_in_another_one(
    path: str, kind: EndpointKind, sent_to: str, stream: type | None
) -> None:
    outgoing = build(call_of(path), kind)
    assert outgoing.path == sent_to
    assert json.loads(outgoing.body)["model"] == "there"
    assert (outgoing.make_stream is None) == (outgoing.translate_document is None) == (stream is None)
    if stream is not None:
        assert outgoing.make_stream is not None
        assert type(outgoing.make_stream()) is stream


@pytest.mark.parametrize(("path", "kind"), [(CHAT, EndpointKind.VLLM), (CHAT, EndpointKind.ANTHROPIC)])
def test_fields_of_an_administrator_are_set_and_stripped(path: str, kind: EndpointKind) -> None:
    call = call_of(path, temperature=0.5, max_tokens=9)
    outgoing = build(call, kind, set_fields={"top_p": 0.25}, strip_fields=("temperature",))
    body = json.loads(outgoing.body)
    assert (body["top_p"], "temperature" in body, body["max_tokens"]) == (0.25, False, 9)


def test_fields_for_llama_server_are_left_out_of_a_translation() -> None:
    outgoing = build(call_of(CHAT, cache_prompt=True, seed=1), EndpointKind.ANTHROPIC)
    assert "cache_prompt" not in json.loads(outgoing.body)
    # And named only where the client can have meant the endpoint.
    assert outgoing.ignored == ("seed",)


def test_what_cannot_be_translated_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        build(call_of(CHAT, n=2), EndpointKind.ANTHROPIC)


@pytest.mark.parametrize(
    ("options", "is_told"), [({}, False), ({"stream_options": {"include_usage": True}}, True)]
)
@pytest.mark.parametrize("kind", [EndpointKind.ANTHROPIC, EndpointKind.GOOGLE])
def test_counts_in_a_stream_are_those_that_the_client_asked_for(
    options: dict[str, Any], is_told: bool, kind: EndpointKind
) -> None:
    outgoing = build(call_of(CHAT, stream=True, **options), kind)
    assert outgoing.make_stream is not None
    stream: Any = outgoing.make_stream()
    assert stream._include_usage is is_told


def test_thinking_goes_back_only_where_it_is_known() -> None:
    turn = {"role": "assistant", "content": "a", "reasoning_content": "Hm."}
    call = call_of(CHAT, messages=[USER, turn, USER])
    for kind, is_sent in ((EndpointKind.VLLM, True), (EndpointKind.OPENAI, False)):
        messages = json.loads(build(call, kind).body)["messages"]
        assert ("reasoning_content" in messages[1]) is is_sent
    # The endpoint says what is wrong with these.
    odd = build(call_of(CHAT, messages='"reasoning"'), EndpointKind.OPENAI)
    assert json.loads(odd.body)["messages"] == '"reasoning"'
