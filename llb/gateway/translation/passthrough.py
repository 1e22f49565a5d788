"""Answers of targets that speak the client's dialect: passed on, with only the fields in question changed.

The name of the model, counts that the client did not ask for, and the differences of providers from OpenAI:
`stop` although there are calls, calls with one index, counts in each chunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import Raw

from llb.gateway.stream.sse import format_event
from llb.gateway.translation.answer_stream import AnswerStream
from llb.gateway.translation.chat_answer import ChatChoice, ChatDocument, decode_chat
from llb.gateway.translation.chat_profile import ChatProfile
from llb.gateway.translation.messages_answer import DONE, INCOMPLETE_MESSAGE, UNDECODABLE_MESSAGE
from llb.gateway.translation.provider_errors import ProviderFailure
from llb.gateway.translation.thinking_blocks import SKIPPED_SIGNATURE
from llb.gateway.translation.token_usage import (
    ChatUsage,
    TokenUsage,
    usage_from_chat,
)
from llb.gateway.translation.tool_calls import ToolCallTracker

_encode = msgspec.json.Encoder().encode
_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_EXTRA_MESSAGE_FIELDS = ("reasoning", "reasoning_content", "reasoning_details", "thinking_blocks")


def clean_chat_messages(messages: list[dict[str, Any]], profile: ChatProfile) -> list[dict[str, Any]]:
    """Messages of a client without what the target refuses, and with the signatures that it needs.

    Clients send the messages of streams back with the `index` of the calls, and fields of other providers.
    """
    return [_clean_message(message, profile) for message in messages]


def _clean_message(message: dict[str, Any], profile: ChatProfile) -> dict[str, Any]:
    dropped: tuple[str, ...] = () if profile.accepts_extra_fields else _EXTRA_MESSAGE_FIELDS
    if message.get("role") == "tool":
        dropped += ("name",)
    cleaned = {name: value for name, value in message.items() if name not in dropped}
    if isinstance(calls := cleaned.get("tool_calls"), list):
        cleaned["tool_calls"] = [
            _clean_call(call, number, profile) if isinstance(call, dict) else call
            for number, call in enumerate(calls)
        ]
    return cleaned


def _clean_call(call: dict[str, Any], number: int, profile: ChatProfile) -> dict[str, Any]:
    cleaned = {name: value for name, value in call.items() if name != "index"}
    if not profile.has_thought_signatures:
        cleaned.pop("extra_content", None)
    elif number == 0:
        # Google signs the first of parallel calls; not all clients keep the signature.
        cleaned.setdefault("extra_content", SKIPPED_SIGNATURE)
    return cleaned


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


class ChatPassStream(AnswerStream):
    """Passes the chunks of a chat on."""

    def __init__(self, *, model: str, include_usage: bool) -> None:
        super().__init__()
        self._usage = TokenUsage()
        self._model = Raw(_encode(model))
        self._include_usage = include_usage
        # Choices whose role was sent: clients join the texts of all chunks.
        self._started: set[int] = set()
        # Trackers by choice: a client may ask for several choices.
        self._trackers: dict[int, ToolCallTracker] = {}
        self._is_finished = False

    @property
    def usage(self) -> TokenUsage:
        return self._usage

    def _end_stream(self) -> Iterator[bytes]:
        if not self._is_finished:
            raise ProviderFailure(502, INCOMPLETE_MESSAGE)
        # The provider sends no `[DONE]`.
        self.is_complete = True
        yield DONE

    def _translate(self, events: Iterable[bytes]) -> Iterator[bytes]:
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
                self._usage = self._usage.updated(usage_from_chat(chat.usage))
            if not self._keeps_usage(chat, fields):
                continue
            self._correct(chat, fields)
            yield format_event(_encode(fields))

    def _keeps_usage(self, chat: ChatDocument, fields: dict[str, Raw]) -> bool:
        """Whether the client gets the chunk, after the counts that it did not ask for were removed."""
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
            if delta is not None and delta.role is not None:
                changed = changed or choice.index in self._started
            if choice.finish_reason is not None:
                self._is_finished = True
                changed = changed or (choice.finish_reason == "stop" and choice.index in self._trackers)
        if changed:
            choices = msgspec.json.decode(fields["choices"], type=list[dict[str, Any]])
            for number, choice_fields in enumerate(choices):
                self._correct_choice(choice_fields, positions.get(number))
            fields["choices"] = Raw(_encode(choices))
        self._started.update(choice.index for choice in chat.choices or () if choice.delta is not None)

    def _correct_choice(self, choice: dict[str, Any], positions: list[int] | None) -> None:
        index, delta = choice.get("index", 0), choice.get("delta")
        if isinstance(delta, dict) and index in self._started:
            delta.pop("role", None)
        if positions is not None:
            for call, position in zip(choice["delta"]["tool_calls"], positions, strict=True):
                call["index"] = position
        if choice.get("finish_reason") == "stop" and choice.get("index", 0) in self._trackers:
            cut = self._trackers[choice.get("index", 0)].is_cut
            choice["finish_reason"] = "length" if cut else "tool_calls"
