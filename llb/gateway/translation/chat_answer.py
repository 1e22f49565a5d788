"""Answers: OpenAI's chat to Anthropic's Messages, as a document and as a stream. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct

from llb.gateway.stream.sse import format_event
from llb.gateway.translation.answer_stream import AnswerStream
from llb.gateway.translation.chat_to_messages import parse_arguments
from llb.gateway.translation.messages_answer import INCOMPLETE_MESSAGE, UNDECODABLE_MESSAGE
from llb.gateway.translation.provider_errors import ProviderFailure, failure_from_document
from llb.gateway.translation.thinking_blocks import signature_carrier
from llb.gateway.translation.token_usage import ChatUsage, TokenUsage, usage_from_chat
from llb.gateway.translation.tool_calls import StreamedCall, ToolCallDelta, ToolCallTracker
from llb.wire.decoding import DECODE_ERRORS

_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_NO_ERROR = (b"", b"null")
_encode = msgspec.json.Encoder().encode


class ChatMessage(Struct):
    """Message of a choice, or a part of it in a stream. vLLM and Ollama call the thinking `reasoning`."""

    role: str | None = None
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    thinking_blocks: list[dict[str, Any]] | None = None
    tool_calls: list[ToolCallDelta] | None = None

    @property
    def thinking(self) -> str:
        return self.reasoning_content or self.reasoning or ""


class ChatChoice(Struct):
    index: int = 0
    message: ChatMessage | None = None
    delta: ChatMessage | None = None
    finish_reason: str | None = None
    # The stop sequence or token, at vLLM and SGLang.
    stop_reason: str | int | None = None
    matched_stop: str | int | None = None


class ChatDocument(Struct):
    """Answer of a chat, or one chunk of it."""

    id: str | None = None
    choices: list[ChatChoice] | None = None
    usage: ChatUsage | None = None
    error: Raw = Raw()


_decode_chat = msgspec.json.Decoder(ChatDocument).decode


def decode_chat(data: bytes) -> ChatDocument:
    """Decode an answer, or a chunk of one. Raises `ProviderFailure`, also for one that reports an error."""
    try:
        chat = _decode_chat(data)
    except DECODE_ERRORS:
        chat = None
    if chat is not None and chat.choices is not None and bytes(chat.error) in _NO_ERROR:
        return chat
    try:
        document = msgspec.json.decode(data)
    except DECODE_ERRORS:
        raise ProviderFailure(502, UNDECODABLE_MESSAGE) from None
    if isinstance(document, list) or _is_error(document):
        raise failure_from_document(document)
    if chat is None or "choices" in document:
        raise ProviderFailure(502, UNDECODABLE_MESSAGE)
    # Counts, or a sign of life, in an event of their own.
    return chat


def _is_error(document: Any) -> bool:
    return isinstance(document, dict) and (
        bool(document.get("error")) or document.get("object") == "error" or "detail" in document
    )


def stop_fields_of(
    finish_reason: str | None,
    matched: str | int | None,
    stop_sequences: Sequence[str],
    calls: ToolCallTracker,
) -> dict[str, Any]:
    """`stop_reason` and `stop_sequence` of an answer.

    Some providers end an answer with calls by `stop`, and one whose last call was cut, too.
    """
    reason = _STOP_REASONS.get(finish_reason or "stop", "end_turn")
    if calls.calls and reason in ("end_turn", "tool_use"):
        reason = "max_tokens" if calls.is_cut else "tool_use"
    if reason == "end_turn" and isinstance(matched, str) and matched in stop_sequences:
        return {"stop_reason": "stop_sequence", "stop_sequence": matched}
    return {"stop_reason": reason, "stop_sequence": None}


def _tool_use(call: StreamedCall, tool_names: Mapping[str, str], arguments: dict[str, Any]) -> dict[str, Any]:
    name = tool_names.get(call.name, call.name)
    return {"type": "tool_use", "id": call.id, "name": name, "input": arguments}


def translate_chat_document(
    body: bytes,
    *,
    model: str,
    message_id: str,
    tool_names: Mapping[str, str],
    stop_sequences: Sequence[str] = (),
) -> tuple[bytes, TokenUsage]:
    """Translate a complete chat; returns the message and its counts. Raises `ProviderFailure`."""
    chat = decode_chat(body)
    choice = next(iter(chat.choices or ()), None)
    if choice is None:
        raise ProviderFailure(502, UNDECODABLE_MESSAGE)
    message = choice.message or ChatMessage()
    content: list[dict[str, Any]] = list(_signed_thinking(message.thinking_blocks))
    if not content and message.thinking:
        content.append({"type": "thinking", "thinking": message.thinking, "signature": ""})
    if text := message.content or message.refusal:
        content.append({"type": "text", "text": text})
    tracker = ToolCallTracker()
    for position, call in enumerate(message.tool_calls or ()):
        # A document has whole calls, whatever their index says.
        tracker.add(msgspec.structs.replace(call, index=position))
    if signatures := _signatures_of(tracker.calls):
        content.append(signature_carrier(signatures))
    content += [_tool_use(call, tool_names, parse_arguments(call.arguments)) for call in tracker.calls]
    usage = usage_from_chat(chat.usage or ChatUsage())
    matched = choice.stop_reason if choice.stop_reason is not None else choice.matched_stop
    stop = stop_fields_of(choice.finish_reason, matched, stop_sequences, tracker)
    if message.refusal and not message.content:
        stop = {"stop_reason": "refusal", "stop_sequence": None}
    document = {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        **stop,
        "usage": usage.as_messages(),
    }
    return _encode(document), usage


def _signed_thinking(blocks: list[dict[str, Any]] | None) -> Iterator[dict[str, Any]]:
    for block in blocks or ():
        match block:
            case {"type": "thinking", "thinking": str(text), "signature": str(signature)}:
                yield {"type": "thinking", "thinking": text, "signature": signature}
            case {"type": "redacted_thinking", "data": str(data)}:
                yield {"type": "redacted_thinking", "data": data}


def _signatures_of(calls: Iterable[StreamedCall]) -> dict[str, Any]:
    return {call.id: call.extra_content for call in calls if call.extra_content is not UNSET}


# --- streams -----------------------------------------------------------------------------------------


class ChatToMessagesStream(AnswerStream):
    """Translates the chunks of a chat into the events of a message.

    One block is open at a time, as Anthropic's clients expect.
    """

    def __init__(
        self,
        *,
        model: str,
        message_id: str,
        tool_names: Mapping[str, str],
        stop_sequences: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self._usage = TokenUsage()
        self._tool_names = tool_names
        self._stop_sequences = stop_sequences
        self._message: dict[str, Any] = {
            "id": message_id,
            "type": "message",
            "role": "assistant",
            "model": model,
        }
        self._has_begun = False
        self._block_index = -1
        # "text", "thinking", "tool_use", or empty for none.
        self._open_kind = ""
        self._tracker = ToolCallTracker()
        # The call whose block is open, and how much of the arguments of each call was sent.
        self._open_call: StreamedCall | None = None
        self._sent_chars: dict[int, int] = {}
        self._finish_reason: str | None = None
        self._matched: str | int | None = None
        self._is_refusal = False
        # Text that arrived within a call.
        self._held_text: list[str] = []

    @property
    def usage(self) -> TokenUsage:
        return self._usage

    def _end_stream(self) -> Iterator[bytes]:
        # Some servers send no `[DONE]`; a finish reason is an end, too.
        if self._finish_reason is None:
            raise ProviderFailure(502, INCOMPLETE_MESSAGE)
        yield from self._end()

    def _translate(self, events: Iterable[bytes]) -> Iterator[bytes]:
        for data in events:
            if self.is_complete:
                return
            if data == b"[DONE]":
                if self._finish_reason is None and not self._has_begun:
                    raise ProviderFailure(502, INCOMPLETE_MESSAGE)
                yield from self._end()
                return
            chat = decode_chat(data)
            if not self._has_begun:
                yield self._begin()
            if chat.usage is not None:
                # Google's counts are cumulative, in each chunk; the last ones may come after the end.
                self._usage = self._usage.updated(usage_from_chat(chat.usage))
            for choice in chat.choices or ():
                if choice.index == 0:
                    yield from self._translate_choice(choice)

    def _begin(self) -> bytes:
        self._has_begun = True
        usage = TokenUsage().as_messages()
        message: dict[str, Any] = {
            **self._message,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }
        return _event("message_start", {"message": message})

    def _translate_choice(self, choice: ChatChoice) -> Iterator[bytes]:
        delta = choice.delta or choice.message
        if delta is not None:
            yield from self._translate_thinking(delta)
            if text := delta.content or delta.refusal:
                self._is_refusal = self._is_refusal or bool(delta.refusal)
                yield from self._add_text(text)
            for call in delta.tool_calls or ():
                yield from self._add_call(call)
        self._finish_reason = choice.finish_reason or self._finish_reason
        matched = choice.stop_reason if choice.stop_reason is not None else choice.matched_stop
        self._matched = self._matched if matched is None else matched

    def _add_text(self, text: str) -> Iterator[bytes]:
        if self._open_call is not None and not self._open_call.is_complete:
            # The rest of the call is still to come.
            self._held_text.append(text)
            return
        yield from self._open("text", {"type": "text", "text": ""})
        yield self._delta({"type": "text_delta", "text": text})

    def _translate_thinking(self, delta: ChatMessage) -> Iterator[bytes]:
        empty = {"type": "thinking", "thinking": "", "signature": ""}
        if delta.thinking:
            yield from self._open("thinking", empty)
            yield self._delta({"type": "thinking_delta", "thinking": delta.thinking})
        for block in delta.thinking_blocks or ():
            if block.get("type") == "redacted_thinking":
                yield from self._close()
                yield from self._whole_block(
                    {"type": "redacted_thinking", "data": str(block.get("data", ""))}
                )
            elif isinstance(signature := block.get("signature"), str) and signature:
                yield from self._open("thinking", empty)
                yield self._delta({"type": "signature_delta", "signature": signature})
                # The signature ends its block.
                yield from self._close()

    # --- calls --------------------------------------------------------------------------------------

    def _add_call(self, delta: ToolCallDelta) -> Iterator[bytes]:
        call, _ = self._tracker.add(delta)
        # The next block begins once the arguments of the open call are whole, and its own name is known.
        may_open = self._open_call is None or (call is not self._open_call and self._open_call.is_complete)
        if may_open and call.name and call.position not in self._sent_chars:
            yield from self._open_tool_use(call)
        if call is self._open_call:
            yield from self._send_arguments(call)

    def _open_tool_use(self, call: StreamedCall) -> Iterator[bytes]:
        yield from self._close()
        if call.extra_content is not UNSET:
            yield from self._whole_block(signature_carrier({call.id: call.extra_content}))
        self._open_call, self._open_kind = call, "tool_use"
        self._sent_chars[call.position] = 0
        yield self._start_block(_tool_use(call, self._tool_names, {}))

    def _send_arguments(self, call: StreamedCall) -> Iterator[bytes]:
        text = call.arguments
        sent = self._sent_chars[call.position]
        if len(text) > sent:
            self._sent_chars[call.position] = len(text)
            yield self._delta({"type": "input_json_delta", "partial_json": text[sent:]})

    # --- blocks -------------------------------------------------------------------------------------

    def _open(self, kind: str, empty: dict[str, Any]) -> Iterator[bytes]:
        if self._open_kind != kind:
            yield from self._close()
            self._open_kind = kind
            yield self._start_block(empty)

    def _start_block(self, block: dict[str, Any]) -> bytes:
        self.has_content = True
        self._block_index += 1
        return _event("content_block_start", {"index": self._block_index, "content_block": block})

    def _whole_block(self, block: dict[str, Any]) -> Iterator[bytes]:
        yield self._start_block(block)
        yield _event("content_block_stop", {"index": self._block_index})

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", {"index": self._block_index, "delta": delta})

    def _close(self) -> Iterator[bytes]:
        if self._open_kind:
            if self._open_call is not None and not self._open_call.arguments.strip():
                yield self._delta({"type": "input_json_delta", "partial_json": "{}"})
            self._open_kind, self._open_call = "", None
            yield _event("content_block_stop", {"index": self._block_index})
            if self._held_text:
                text, self._held_text = "".join(self._held_text), []
                yield from self._add_text(text)
                yield from self._close()

    def _end(self) -> Iterator[bytes]:
        self.is_complete = True
        if not self._has_begun:
            yield self._begin()
        yield from self._close()
        for call in self._tracker.calls:
            # Calls whose parts arrived before the end of another one.
            if call.position not in self._sent_chars:
                yield from self._open_tool_use(call)
                yield from self._send_arguments(call)
                yield from self._close()
        stop = stop_fields_of(self._finish_reason, self._matched, self._stop_sequences, self._tracker)
        if self._is_refusal:
            stop = {"stop_reason": "refusal", "stop_sequence": None}
        yield _event("message_delta", {"delta": stop, "usage": self._usage.as_messages()})
        yield _event("message_stop", {})


def _event(name: str, fields: dict[str, Any]) -> bytes:
    return format_event(_encode({"type": name, **fields}), name.encode())
