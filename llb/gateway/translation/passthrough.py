"""Answers of targets that speak the client's dialect: passed on, with only the fields in question changed.

The name of the model, counts that the client did not ask for, and what providers do differently from
OpenAI: `stop` although there are calls, calls with one index, counts in each chunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import Raw, Struct

from llb.gateway.stream.sse import format_event
from llb.gateway.translation.chat_answer import ChatChoice, ChatDocument, decode_chat
from llb.gateway.translation.event_reader import EventReader
from llb.gateway.translation.messages_answer import DONE, INCOMPLETE_MESSAGE, UNDECODABLE_MESSAGE
from llb.gateway.translation.provider_errors import ProviderFailure, failure_from_document
from llb.gateway.translation.token_usage import (
    ChatUsage,
    MessagesUsage,
    TokenUsage,
    merge_messages_usage,
    usage_from_chat,
    usage_from_messages,
)
from llb.gateway.translation.tool_calls import ToolCallTracker
from llb.wire.decoding import DECODE_ERRORS

_encode = msgspec.json.Encoder().encode
_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_NULL = b"null"


# --- chat --------------------------------------------------------------------------------------------


def pass_chat_document(body: bytes, *, model: str) -> tuple[bytes, TokenUsage]:
    """A complete chat under the name `model`, and its counts. Raises `ProviderFailure`."""
    chat = decode_chat(body)
    if not chat.choices:
        raise ProviderFailure(502, UNDECODABLE_MESSAGE)
    fields = _decode_fields(body)
    fields["model"] = Raw(_encode(model))
    if _needs_finish(chat.choices):
        choices = msgspec.json.decode(fields["choices"], type=list[dict[str, Any]])
        for choice, parsed in zip(choices, chat.choices, strict=True):
            if _ends_early(parsed):
                choice["finish_reason"] = "tool_calls"
        fields["choices"] = Raw(_encode(choices))
    return _encode(fields), usage_from_chat(chat.usage or ChatUsage())


def _ends_early(choice: ChatChoice) -> bool:
    return choice.finish_reason == "stop" and choice.message is not None and bool(choice.message.tool_calls)


def _needs_finish(choices: Iterable[ChatChoice]) -> bool:
    return any(map(_ends_early, choices))


class ChatPassStream:
    """Passes the chunks of a chat on."""

    def __init__(self, *, model: str, include_usage: bool) -> None:
        self.has_content = False
        self.is_complete = False
        self.usage = TokenUsage()
        self._model = Raw(_encode(model))
        self._include_usage = include_usage
        self._events = EventReader()
        # By choice: a client may ask for several.
        self._trackers: dict[int, ToolCallTracker] = {}
        self._is_finished = False

    def feed(self, data: bytes) -> bytes:
        return b"".join(self._pass(self._events.feed(data)))

    def finish(self) -> bytes:
        rest = b"".join(self._pass(self._events.flush()))
        if not self.is_complete:
            if not self._is_finished:
                raise ProviderFailure(502, INCOMPLETE_MESSAGE)
            # The provider sends no `[DONE]`.
            self.is_complete = True
            rest += DONE
        return rest

    def _pass(self, events: Iterable[bytes]) -> Iterator[bytes]:
        for data in events:
            if self.is_complete:
                return
            if data == b"[DONE]":
                self.is_complete = True
                yield DONE
                return
            chat = decode_chat(data)
            fields = _decode_fields(data)
            fields["model"] = self._model
            if chat.usage is not None:
                self.usage = self.usage.updated(usage_from_chat(chat.usage))
            if not self._keeps_usage(chat, fields):
                continue
            self._correct(chat, fields)
            yield format_event(_encode(fields))

    def _keeps_usage(self, chat: ChatDocument, fields: dict[str, Raw]) -> bool:
        """Whether the chunk goes on to the client, after the counts that it did not ask for were removed."""
        if self._include_usage or "usage" not in fields:
            return True
        del fields["usage"]
        return bool(chat.choices)

    def _correct(self, chat: ChatDocument, fields: dict[str, Raw]) -> None:
        changed = False
        positions: dict[int, list[int]] = {}
        for number, choice in enumerate(chat.choices or ()):
            delta = choice.delta
            if delta is not None and (delta.content or delta.thinking or delta.tool_calls or delta.refusal):
                self.has_content = True
            if delta is not None and delta.tool_calls:
                tracker = self._trackers.setdefault(choice.index, ToolCallTracker())
                placed = [tracker.add(call)[0].position for call in delta.tool_calls]
                if placed != [call.index for call in delta.tool_calls]:
                    positions[number] = placed
                    changed = True
            if choice.finish_reason is not None:
                self._is_finished = True
                changed = changed or (choice.finish_reason == "stop" and choice.index in self._trackers)
        if changed:
            choices = msgspec.json.decode(fields["choices"], type=list[dict[str, Any]])
            for number, choice_fields in enumerate(choices):
                self._correct_choice(choice_fields, positions.get(number))
            fields["choices"] = Raw(_encode(choices))

    def _correct_choice(self, choice: dict[str, Any], positions: list[int] | None) -> None:
        if positions is not None:
            for call, position in zip(choice["delta"]["tool_calls"], positions, strict=True):
                call["index"] = position
        if choice.get("finish_reason") == "stop" and choice.get("index", 0) in self._trackers:
            cut = self._trackers[choice.get("index", 0)].is_cut
            choice["finish_reason"] = "length" if cut else "tool_calls"


# --- Messages ----------------------------------------------------------------------------------------


class _MessageHead(Struct):
    type: str = "message"
    usage: MessagesUsage | None = None


def pass_message_document(body: bytes, *, model: str) -> tuple[bytes, TokenUsage]:
    """A complete message under the name `model`, and its counts. Raises `ProviderFailure`."""
    try:
        head = msgspec.json.decode(body, type=_MessageHead)
        fields = _decode_fields(body)
    except DECODE_ERRORS:
        raise ProviderFailure(502, UNDECODABLE_MESSAGE) from None
    if head.type == "error" or "error" in fields:
        raise failure_from_document(msgspec.json.decode(body))
    if "content" not in fields:
        raise ProviderFailure(502, UNDECODABLE_MESSAGE)
    fields["model"] = Raw(_encode(model))
    return _encode(fields), usage_from_messages(head.usage or MessagesUsage())


class _MessageEvent(Struct):
    type: str = ""
    message: Raw = Raw()
    usage: MessagesUsage | None = None


_decode_event = msgspec.json.Decoder(_MessageEvent).decode


class MessagesPassStream:
    """Passes the events of a message on."""

    def __init__(self, *, model: str) -> None:
        self.has_content = False
        self.is_complete = False
        self._model = Raw(_encode(model))
        self._events = EventReader()
        self._usage = MessagesUsage()

    @property
    def usage(self) -> TokenUsage:
        return usage_from_messages(self._usage)

    def feed(self, data: bytes) -> bytes:
        return b"".join(self._pass(self._events.feed(data)))

    def finish(self) -> bytes:
        rest = b"".join(self._pass(self._events.flush()))
        if not self.is_complete:
            raise ProviderFailure(502, INCOMPLETE_MESSAGE)
        return rest

    def _pass(self, events: Iterable[bytes]) -> Iterator[bytes]:
        for data in events:
            if self.is_complete or data == b"[DONE]":
                continue
            try:
                event = _decode_event(data)
            except DECODE_ERRORS:
                raise ProviderFailure(502, UNDECODABLE_MESSAGE) from None
            match event.type:
                case "message_start":
                    yield self._start(data, event)
                    continue
                case "content_block_start":
                    self.has_content = True
                case "message_delta":
                    self._usage = merge_messages_usage(self._usage, event.usage or MessagesUsage())
                case "message_stop":
                    self.is_complete = True
                case "error" | "":
                    raise failure_from_document(msgspec.json.decode(data))
            yield format_event(data, event.type.encode())

    def _start(self, data: bytes, event: _MessageEvent) -> bytes:
        try:
            head = msgspec.json.decode(event.message, type=_MessageHead)
            message = _decode_fields(event.message)
        except DECODE_ERRORS:
            raise ProviderFailure(502, UNDECODABLE_MESSAGE) from None
        self._usage = head.usage or self._usage
        message["model"] = self._model
        fields = _decode_fields(data)
        fields["message"] = Raw(_encode(message))
        return format_event(_encode(fields), b"message_start")
