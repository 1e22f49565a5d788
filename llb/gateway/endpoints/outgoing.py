"""Request as an endpoint gets it, and the translation of its answer where one is needed.

An endpoint that lacks the client's dialect is asked in another one. Some that speak it do so with quirks,
which are corrected in the answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from msgspec import Raw, Struct

from llb.gateway.endpoints.endpoint import Endpoint
from llb.gateway.endpoints.request_body import build_body
from llb.gateway.inference_call import InferenceCall
from llb.gateway.translation.answer_stream import AnswerStream
from llb.gateway.translation.chat_answer import ChatToMessagesStream, translate_chat_document
from llb.gateway.translation.chat_profile import profile_of
from llb.gateway.translation.chat_to_messages import translate_chat_request
from llb.gateway.translation.messages_answer import MessagesToChatStream, translate_message_document
from llb.gateway.translation.messages_to_chat import translate_messages_request
from llb.gateway.translation.passthrough import ChatPassStream, clean_chat_messages, pass_chat_document
from llb.gateway.translation.token_usage import TokenUsage
from llb.policy.endpoints import dialects
from llb.wire import EndpointKind
from llb.wire.decoding import DECODE_ERRORS

# Their chats need a look at each chunk: calls with one index, `stop` after calls, cumulative counts.
_QUIRKY_KINDS = frozenset(
    {EndpointKind.GOOGLE, EndpointKind.OPENAI_COMPATIBLE, EndpointKind.OLLAMA, EndpointKind.LOCAL_AI}
)
# What messages may have that an endpoint refuses, or lack that it needs.
_MESSAGE_MARKERS = (b'"reasoning', b'"thinking_blocks"', b'"tool_calls"')

DocumentTranslator = Callable[[bytes], tuple[bytes, TokenUsage]]


class OutgoingRequest(Struct, frozen=True):
    """Path and body of a request; without translators the answer passes as it is.

    `adds_usage`: the stream has a chunk with the counts that the client did not ask for. `ignored` are the
    fields without a counterpart.
    """

    path: str = ""
    body: bytes = b""
    adds_usage: bool = False
    make_stream: Callable[[], AnswerStream] | None = None
    translate_document: DocumentTranslator | None = None
    ignored: tuple[str, ...] = ()


def build_request(call: InferenceCall, endpoint: Endpoint, served_as: str) -> OutgoingRequest:
    """Return the request for an endpoint. Raises `InvalidRequest` for what cannot be translated."""
    path = call.path.decode("ascii")
    match dialects.path_at(endpoint.kind, path):
        case dialects.MESSAGES if path == dialects.CHAT:
            return _chat_as_messages(call, endpoint, served_as)
        case dialects.CHAT if path == dialects.MESSAGES:
            return _messages_as_chat(call, endpoint, served_as)
    settings = endpoint.record.settings
    outgoing = build_body(
        call.body,
        path=path,
        kind=endpoint.kind,
        host=endpoint.url.host,
        served_as=served_as,
        stream=call.stream,
        set_fields=settings.set_fields,
        strip_fields=settings.strip_fields,
    )
    if path != dialects.CHAT:
        return OutgoingRequest(path, outgoing.body, outgoing.adds_usage)
    body = outgoing.body
    if any(marker in body for marker in _MESSAGE_MARKERS):
        body = _clean_messages(body, endpoint)
    if endpoint.kind not in _QUIRKY_KINDS:
        return OutgoingRequest(path, body, outgoing.adds_usage)
    model = call.model.id
    return OutgoingRequest(
        path,
        body,
        make_stream=partial(ChatPassStream, model=model, include_usage=not outgoing.adds_usage),
        translate_document=partial(pass_chat_document, model=model),
    )


def _chat_as_messages(call: InferenceCall, endpoint: Endpoint, served_as: str) -> OutgoingRequest:
    document = _decode_body(call, endpoint)
    options = document.get("stream_options")
    request = translate_chat_request(document, served_as)
    answer: dict[str, Any] = {
        "model": call.model.id,
        "created": int(time.time()),
        "tool_names": request.tool_names,
    }
    include_usage = isinstance(options, dict) and options.get("include_usage") is True
    return OutgoingRequest(
        dialects.MESSAGES,
        _encode_body(request.document, endpoint),
        make_stream=partial(MessagesToChatStream, include_usage=include_usage, **answer),
        translate_document=partial(translate_message_document, **answer),
        ignored=request.ignored,
    )


def _messages_as_chat(call: InferenceCall, endpoint: Endpoint, served_as: str) -> OutgoingRequest:
    document = _decode_body(call, endpoint)
    profile = profile_of(endpoint.kind.value, endpoint.url.host)
    request = translate_messages_request(document, served_as, profile)
    stops = document.get("stop_sequences")
    answer: dict[str, Any] = {
        "model": call.model.id,
        "message_id": f"msg_{call.record.request_id}",
        "tool_names": request.tool_names,
        "stop_sequences": stops if isinstance(stops, list) else (),
    }
    return OutgoingRequest(
        dialects.CHAT,
        _encode_body(request.document, endpoint),
        make_stream=partial(ChatToMessagesStream, **answer),
        translate_document=partial(translate_chat_document, **answer),
        ignored=request.ignored,
    )


def _decode_body(call: InferenceCall, endpoint: Endpoint) -> dict[str, Any]:
    """Fields of the request, without those for llama-server."""
    document = msgspec.json.decode(call.body, type=dict[str, Any])
    for name in dialects.unknown_fields(endpoint.kind, endpoint.url.host, call.path.decode("ascii")):
        document.pop(name, None)
    return document


def _encode_body(document: dict[str, Any], endpoint: Endpoint) -> bytes:
    settings = endpoint.record.settings
    fields = {**document, **settings.set_fields}
    return msgspec.json.encode(
        {name: value for name, value in fields.items() if name not in settings.strip_fields}
    )


def _clean_messages(body: bytes, endpoint: Endpoint) -> bytes:
    fields: dict[str, Any] = dict(msgspec.json.decode(body, type=dict[str, Raw]))
    try:
        messages = msgspec.json.decode(fields.get("messages", b"null"), type=list[dict[str, Any]])
    except DECODE_ERRORS:
        # The endpoint says what is wrong with them.
        return body
    profile = profile_of(endpoint.kind.value, endpoint.url.host)
    fields["messages"] = clean_chat_messages(messages, profile)
    return msgspec.json.encode(fields)
