"""The official packages as judges of what the translators make, and the stand-ins' strict readers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import anthropic
import httpx2
import msgspec
import openai
from anthropic.types import Message
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from openai.types.chat import ChatCompletion
from pydantic import TypeAdapter

from llb.gateway.translation.answer_stream import AnswerStream
from llb.gateway.translation.chat_answer import ChatToMessagesStream, translate_chat_document
from llb.gateway.translation.messages_answer import MessagesToChatStream, translate_message_document
from tests.providers import brain
from tests.providers.dialects import anthropic as anthropic_side
from tests.providers.dialects import openai as openai_side
from tests.providers.dialects.openai import Style
from tests.providers.http import sse

STYLE = Style(strict=True)
_REQUEST = TypeAdapter(MessageCreateParamsNonStreaming)


def check_messages_request(document: dict[str, Any]) -> brain.Question:
    """What Anthropic's types and its API accept; returns the question."""
    _REQUEST.validate_python({name: value for name, value in document.items() if name != "stream"})
    return anthropic_side.read_messages(msgspec.json.decode(msgspec.json.encode(document)))


def check_chat_request(document: dict[str, Any], style: Style = STYLE) -> brain.Question:
    """What OpenAI's API accepts; returns the question."""
    return openai_side.read_chat(msgspec.json.decode(msgspec.json.encode(document)), style)


# --- Anthropic's answers as chats ----------------------------------------------------------------------


def chat_of_message(message: dict[str, Any], names: dict[str, str] | None = None) -> ChatCompletion:
    body, _ = translate_message_document(
        json.dumps(message).encode(), model="claude", created=1, tool_names=names or {}
    )
    return ChatCompletion.model_validate_json(body, strict=True)


def chat_stream(*, include_usage: bool = True, names: dict[str, str] | None = None) -> MessagesToChatStream:
    return MessagesToChatStream(
        model="claude", created=1, include_usage=include_usage, tool_names=names or {}
    )


def chat_of_events(events: Iterable[dict[str, Any]], **options: Any) -> ChatCompletion:
    """The chat that the official client assembles from the translated stream."""
    data = b"".join(sse(event, event["type"]) for event in events)
    return read_chat_stream(translate_whole(chat_stream(**options), data))


def read_chat_stream(data: bytes) -> ChatCompletion:
    def answer(_request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=data)

    with (
        openai.OpenAI(
            api_key="k",
            base_url="http://t/v1",
            http_client=httpx2.Client(transport=httpx2.MockTransport(answer)),
        ) as client,
        client.chat.completions.stream(model="claude", messages=[]) as stream,
    ):
        return stream.get_final_completion()


# --- chats as Anthropic's answers ----------------------------------------------------------------------


def message_of_chat(chat: dict[str, Any], **options: Any) -> Message:
    body, _ = translate_chat_document(
        json.dumps(chat).encode(), model="m", message_id="msg_1", tool_names={}, **options
    )
    return Message.model_validate_json(body, strict=True)


def messages_stream(
    stop_sequences: Sequence[str] = (), names: dict[str, str] | None = None
) -> ChatToMessagesStream:
    return ChatToMessagesStream(
        model="m", message_id="msg_1", tool_names=names or {}, stop_sequences=stop_sequences
    )


def message_of_chunks(chunks: Iterable[dict[str, Any]], *, done: bool = True, **options: Any) -> Message:
    """The message that the official client assembles from the translated stream."""
    data = b"".join(map(sse, chunks)) + (sse("[DONE]") if done else b"")
    return read_message_stream(translate_whole(messages_stream(**options), data))


def read_message_stream(data: bytes) -> Message:
    def answer(_request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=data)

    with (
        anthropic.Anthropic(
            api_key="k",
            base_url="http://t",
            http_client=httpx2.Client(transport=httpx2.MockTransport(answer)),
        ) as client,
        client.messages.stream(model="m", max_tokens=1, messages=[]) as stream,
    ):
        return stream.get_final_message()


# --- streams --------------------------------------------------------------------------------------------


def translate_whole(stream: AnswerStream, data: bytes) -> bytes:
    """The translation, fed whole and in pieces of every size: the same."""
    translated = stream.feed(data) + stream.finish()
    assert stream.is_complete
    return translated


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    """One chunk of a chat."""
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish, **more.pop("choice", {})}
    return {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [choice],
        **more,
    }


def call_delta(
    arguments: str, *, index: int | None = 0, id: str | None = None, name: str | None = None
) -> dict[str, Any]:
    """A part of a tool call."""
    function = {"arguments": arguments} | ({"name": name} if name else {})
    call: dict[str, Any] = {"function": function}
    if id is not None:
        call |= {"id": id, "type": "function"}
    if index is not None:
        call["index"] = index
    return {"tool_calls": [call]}
