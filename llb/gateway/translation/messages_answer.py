"""Answers: Anthropic's Messages to OpenAI's chat, as a document and as a stream. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from llb.gateway.stream.sse import format_event
from llb.gateway.translation.answer_stream import AnswerStream
from llb.gateway.translation.provider_errors import ProviderFailure, failure_from_document
from llb.gateway.translation.token_usage import (
    MessagesUsage,
    TokenUsage,
    merge_messages_usage,
    usage_from_messages,
)
from llb.wire.decoding import DECODE_ERRORS

INCOMPLETE_MESSAGE = "The endpoint stopped before its answer was complete"
UNDECODABLE_MESSAGE = "The endpoint sent an answer that cannot be decoded"
_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.Encoder().encode


def finish_reason_of(stop_reason: str | None, *, has_calls: bool) -> str:
    """OpenAI's finish reason: a complete answer with calls has `tool_calls`."""
    reason = _FINISH_REASONS.get(stop_reason or "end_turn", "stop")
    return "tool_calls" if has_calls and reason == "stop" else reason


def translate_message_document(
    body: bytes, *, model: str, created: int, tool_names: Mapping[str, str]
) -> tuple[bytes, TokenUsage]:
    """Translate a complete message; returns the chat and its counts.

    Raises `ProviderFailure` if it is no message.
    """
    try:
        message = msgspec.json.decode(body, type=_Message)
    except DECODE_ERRORS:
        raise ProviderFailure(502, UNDECODABLE_MESSAGE) from None
    if message.type == "error":
        raise failure_from_document(msgspec.json.decode(body))
    content = _ContentCollector(tool_names)
    for index, block in enumerate(message.content):
        content.add_block(index, block)
    usage = usage_from_messages(message.usage)
    choice = {
        "index": 0,
        "message": content.message(),
        "logprobs": None,
        "finish_reason": finish_reason_of(message.stop_reason, has_calls=bool(content.calls)),
    }
    document = {
        "id": message.id or "chatcmpl-0",
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [choice],
        "usage": usage.as_chat(),
    }
    return _encode(document), usage


class _Message(Struct):
    type: str = "message"
    id: str = ""
    content: list[dict[str, Any]] = []
    stop_reason: str | None = None
    usage: MessagesUsage = msgspec.field(default_factory=MessagesUsage)


class _ContentCollector:
    """The assistant's message of a chat, from the blocks of a message."""

    def __init__(self, tool_names: Mapping[str, str]) -> None:
        self.calls: list[dict[str, Any]] = []
        self._tool_names = tool_names
        self._texts: list[str] = []
        self._thinking: list[dict[str, Any]] = []

    def add_block(self, index: int, block: dict[str, Any]) -> None:
        match block:
            case {"type": "text", "text": str(text)}:
                self._texts.append(text)
            case {"type": "thinking" | "redacted_thinking"}:
                self._thinking.append({**block, "position": index})
            case {"type": "tool_use", "id": str(call_id), "name": str(name)}:
                arguments = _encode(block.get("input") or {}).decode()
                function = {"name": self._tool_names.get(name, name), "arguments": arguments}
                self.calls.append({"id": call_id, "type": "function", "function": function})

    def message(self) -> dict[str, Any]:
        text = "".join(self._texts)
        message: dict[str, Any] = {"role": "assistant", "content": text or (None if self.calls else "")}
        message["refusal"] = None
        if reasoning := "".join(str(block.get("thinking", "")) for block in self._thinking):
            message["reasoning_content"] = reasoning
        if self._thinking:
            message["thinking_blocks"] = self._thinking
        if self.calls:
            message["tool_calls"] = self.calls
        return message


# --- streams -----------------------------------------------------------------------------------------


class _Delta(Struct):
    type: str = ""
    text: str = ""
    thinking: str = ""
    signature: str = ""
    partial_json: str = ""
    stop_reason: str | None = None


class _Block(Struct):
    type: str = ""
    id: str = ""
    name: str = ""
    text: str = ""
    thinking: str = ""
    signature: str = ""
    data: str = ""
    input: dict[str, Any] = {}


class _StartedMessage(Struct):
    id: str = ""
    usage: MessagesUsage | None = None


class _Event(Struct):
    type: str = ""
    index: int = 0
    # A text in some errors.
    message: _StartedMessage | str | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: MessagesUsage | None = None


_decode_event = msgspec.json.Decoder(_Event).decode


class MessagesToChatStream(AnswerStream):
    """Translates the events of a message into the chunks of a chat."""

    def __init__(
        self, *, model: str, created: int, include_usage: bool, tool_names: Mapping[str, str]
    ) -> None:
        super().__init__()
        self._include_usage = include_usage
        self._tool_names = tool_names
        self._usage = MessagesUsage()
        self._stop_reason: str | None = None
        self._call_position = -1
        # Arguments of the open call: none have arrived, or they arrived with its start.
        self._has_arguments = False
        self._open_block = _Block()
        self._thinking_numbers: dict[int, int] = {}
        self._head = {
            "id": "chatcmpl-0",
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
        }

    @property
    def usage(self) -> TokenUsage:
        return usage_from_messages(self._usage)

    def _end_stream(self) -> Iterator[bytes]:
        raise ProviderFailure(502, INCOMPLETE_MESSAGE)

    def _translate(self, events: Iterable[bytes]) -> Iterator[bytes]:
        for data in events:
            if self.is_complete:
                return
            try:
                event = _decode_event(data)
            except DECODE_ERRORS:
                raise _undecodable(data) from None
            yield from self._translate_event(event, data)

    def _translate_event(self, event: _Event, data: bytes) -> Iterable[bytes]:
        match event.type:
            case "content_block_delta":
                if event.delta is not None:
                    yield from self._translate_delta(event.index, event.delta)
            case "content_block_start":
                if event.content_block is not None:
                    yield from self._start_block(event.index, event.content_block)
            case "content_block_stop":
                if self._open_block.type == "tool_use" and not self._has_arguments:
                    # A call without arguments has no deltas.
                    yield self._arguments("{}")
                self._open_block = _Block()
            case "message_start":
                if isinstance(event.message, _StartedMessage):
                    self._head["id"] = event.message.id or self._head["id"]
                    self._usage = event.message.usage or self._usage
                yield self._chunk({"role": "assistant", "content": ""})
            case "message_delta":
                if event.delta is not None:
                    self._stop_reason = event.delta.stop_reason or self._stop_reason
                if event.usage is not None:
                    self._usage = merge_messages_usage(self._usage, event.usage)
            case "message_stop":
                self.is_complete = True
                yield from self._end()
            case "error":
                raise failure_from_document(msgspec.json.decode(data))
            # ping, and what later versions may add.

    def _start_block(self, index: int, block: _Block) -> Iterable[bytes]:
        self._open_block = block
        match block.type:
            case "tool_use":
                self._call_position += 1
                self.has_content = True
                self._has_arguments = bool(block.input)
                arguments = _encode(block.input).decode() if block.input else ""
                function = {"name": self._tool_names.get(block.name, block.name), "arguments": arguments}
                call = {
                    "index": self._call_position,
                    "id": block.id,
                    "type": "function",
                    "function": function,
                }
                yield self._chunk({"tool_calls": [call]})
            case "redacted_thinking":
                self.has_content = True
                yield self._chunk({"thinking_blocks": [{**self._place_thinking(index), "data": block.data}]})
            case "text" | "thinking":
                # Some engines put the first text here.
                start = _Delta(text=block.text, thinking=block.thinking, signature=block.signature)
                yield from self._translate_delta(index, start)

    def _translate_delta(self, index: int, delta: _Delta) -> Iterable[bytes]:
        if delta.text:
            self.has_content = True
            yield self._chunk({"content": delta.text})
        if delta.thinking or delta.signature:
            self.has_content = True
            block = {**self._place_thinking(index), "thinking": delta.thinking}
            if delta.signature:
                block["signature"] = delta.signature
            fields: dict[str, Any] = {"thinking_blocks": [block]}
            if delta.thinking:
                fields["reasoning_content"] = delta.thinking
            yield self._chunk(fields)
        if delta.partial_json:
            self._has_arguments = True
            yield self._arguments(delta.partial_json)

    def _place_thinking(self, index: int) -> dict[str, Any]:
        """Type and place of a thinking block.

        Clients merge its parts by `index`, its number among the thinking blocks, and add up other numbers:
        so its `position` in the content is sent once.
        """
        known = self._thinking_numbers.get(index)
        number = self._thinking_numbers.setdefault(index, len(self._thinking_numbers))
        place = {"type": self._open_block.type or "thinking", "index": number}
        return place if known is not None else {**place, "position": index}

    def _arguments(self, text: str) -> bytes:
        return self._chunk({"tool_calls": [{"index": self._call_position, "function": {"arguments": text}}]})

    def _end(self) -> Iterable[bytes]:
        reason = finish_reason_of(self._stop_reason, has_calls=self._call_position >= 0)
        yield self._chunk({}, reason)
        if self._include_usage:
            yield format_event(_encode({**self._head, "choices": [], "usage": self.usage.as_chat()}))
        yield DONE

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        chunk: dict[str, Any] = {**self._head, "choices": [choice]}
        if self._include_usage:
            chunk["usage"] = None
        return format_event(_encode(chunk))


def _undecodable(data: bytes) -> ProviderFailure:
    """Failure for an event of an unknown shape, which may still be an error."""
    try:
        document = msgspec.json.decode(data)
    except DECODE_ERRORS:
        return ProviderFailure(502, UNDECODABLE_MESSAGE)
    if isinstance(document, dict) and document.get("error"):
        return failure_from_document(document)
    return ProviderFailure(502, UNDECODABLE_MESSAGE)
