"""Aggregators turn a stream into the document that the engine would have sent without `stream`. Pure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, field

from llb.errors import EngineFailed
from llb.gateway.http.engine_errors import translate_engine_error
from llb.gateway.stream.sse import DataLineReader
from llb.wire.decoding import DECODE_ERRORS

_encode = msgspec.json.Encoder().encode
_ABSENT = Raw()
_NULL = Raw(b"null")
_EMPTY_OBJECT = Raw(b"{}")
# For an error without a status.
_DEFAULT_ERROR_STATUS = 500


class StreamAggregator(ABC):
    """Aggregator of one answer. `feed` takes the bytes of the stream in pieces of any size."""

    def __init__(self) -> None:
        # Whether the first token has arrived.
        self.has_started = False
        self.is_complete = False
        self._lines = DataLineReader()

    def feed(self, data: bytes) -> None:
        """Raises `LlbError` if the engine reports a failure or sends what cannot be decoded."""
        try:
            for event in self._lines.feed(data):
                self._add_event(event)
        except (*DECODE_ERRORS, LookupError):
            raise EngineFailed("The engine sent an event that cannot be decoded") from None

    @property
    def lacks_start_event(self) -> bool:
        """Whether the start event is missing and can still be fed."""
        return False

    @abstractmethod
    def document(self) -> bytes:
        """Return the answer, once `is_complete`."""

    @abstractmethod
    def _add_event(self, event: bytes) -> None: ...


class _StreamError(Struct):
    """Error event: in OpenAI's dialect the error is in a field, in others it may be the whole event."""

    error: Raw = _ABSENT
    code: int | str | None = None


def _raise_stream_error(event: bytes) -> None:
    """Raise the error that the engine would have answered with a status."""
    envelope = msgspec.json.decode(event, type=_StreamError)
    error = bytes(envelope.error) or event
    code = msgspec.json.decode(error, type=_StreamError).code
    status = code if isinstance(code, int) else _DEFAULT_ERROR_STATUS
    raise translate_engine_error(status, b'{"error":' + error + b"}")


# --- OpenAI: chat and completions --------------------------------------------------------------------


class _Function(Struct):
    name: str = ""
    arguments: str = ""


class _ToolCall(Struct, omit_defaults=True):
    function: _Function = field(default_factory=_Function)
    index: int = 0
    id: str = ""


class _Logprobs(Struct):
    content: list[Raw] = []


class _Delta(Struct):
    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(Struct):
    index: int = 0
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Chunk(Struct):
    choices: list[_Choice] | None = None
    created: Raw = _NULL
    model: Raw = _NULL
    system_fingerprint: Raw = _NULL
    usage: Raw = _ABSENT
    id: Raw = _NULL
    timings: Raw = _ABSENT
    prompt_progress: Raw = _ABSENT


class _CompleteToolCall(Struct, kw_only=True):
    type: str = "function"
    function: _Function
    id: str


class _Message(Struct, omit_defaults=True):
    role: str
    content: str
    reasoning_content: str = ""
    tool_calls: list[_CompleteToolCall] = []


class _ChatChoice(Struct, omit_defaults=True):
    finish_reason: str | None
    index: int
    message: _Message
    logprobs: _Logprobs | None = None


class _TextChoice(Struct):
    text: str
    index: int
    logprobs: _Logprobs | None
    finish_reason: str | None


class _Completion(Struct, omit_defaults=True, kw_only=True):
    choices: list[_ChatChoice] | list[_TextChoice]
    created: Raw
    model: Raw
    system_fingerprint: Raw
    object: str
    usage: Raw | UnsetType = UNSET
    id: Raw
    timings: Raw | UnsetType = UNSET


def _or_unset(raw: Raw) -> Raw | UnsetType:
    return raw if bytes(raw) else UNSET


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


class _ChoiceAggregator(StreamAggregator):
    """Aggregator of one choice: the common part of chat and completions."""

    object_type: str

    def __init__(self) -> None:
        super().__init__()
        self._last_chunk = _Chunk()
        self._usage: Raw = _ABSENT
        self._timings: Raw = _ABSENT
        self._finish_reason: str | None = None
        self._logprobs: list[Raw] = []

    def _add_event(self, event: bytes) -> None:
        if event == b"[DONE]":
            self.is_complete = True
            return
        chunk = _decode_chunk(event)
        if chunk.choices is None:
            _raise_stream_error(event)
            return
        self.has_started = self.has_started or not bytes(chunk.prompt_progress)
        self._last_chunk = chunk
        self._usage = chunk.usage if bytes(chunk.usage) else self._usage
        self._timings = chunk.timings if bytes(chunk.timings) else self._timings
        for choice in chunk.choices:
            self._finish_reason = choice.finish_reason or self._finish_reason
            if choice.logprobs is not None:
                self._logprobs += choice.logprobs.content
            self._add_choice(choice)

    def document(self) -> bytes:
        last = self._last_chunk
        return _encode(
            _Completion(
                choices=self._build_choices(_Logprobs(self._logprobs) if self._logprobs else None),
                created=last.created,
                model=last.model,
                system_fingerprint=last.system_fingerprint,
                object=self.object_type,
                usage=_or_unset(self._usage),
                id=last.id,
                timings=_or_unset(self._timings),
            )
        )

    @abstractmethod
    def _add_choice(self, choice: _Choice) -> None: ...

    @abstractmethod
    def _build_choices(self, logprobs: _Logprobs | None) -> list[_ChatChoice] | list[_TextChoice]: ...


class ChatAggregator(_ChoiceAggregator):
    object_type = "chat.completion"

    def __init__(self) -> None:
        super().__init__()
        self._role = "assistant"
        self._content_parts: list[str] = []
        self._reasoning_parts: list[str] = []
        self._tool_calls: dict[int, _ToolCall] = {}

    def _add_choice(self, choice: _Choice) -> None:
        delta = choice.delta
        if delta is None:
            return
        self._role = delta.role or self._role
        if delta.content:
            self._content_parts.append(delta.content)
        if delta.reasoning_content:
            self._reasoning_parts.append(delta.reasoning_content)
        for call in delta.tool_calls or ():
            known = self._tool_calls.setdefault(call.index, _ToolCall())
            known.id += call.id
            known.function.name += call.function.name
            known.function.arguments += call.function.arguments

    def _build_choices(self, logprobs: _Logprobs | None) -> list[_ChatChoice]:
        calls = [_CompleteToolCall(function=call.function, id=call.id) for call in self._tool_calls.values()]
        message = _Message(self._role, "".join(self._content_parts), "".join(self._reasoning_parts), calls)
        return [_ChatChoice(self._finish_reason, 0, message, logprobs)]


class CompletionAggregator(_ChoiceAggregator):
    object_type = "text_completion"

    def __init__(self) -> None:
        super().__init__()
        self._text_parts: list[str] = []

    def _add_choice(self, choice: _Choice) -> None:
        if choice.text:
            self._text_parts.append(choice.text)

    def _build_choices(self, logprobs: _Logprobs | None) -> list[_TextChoice]:
        return [_TextChoice("".join(self._text_parts), 0, logprobs, self._finish_reason)]


# --- OpenAI: Responses -------------------------------------------------------------------------------


_PRE_TOKEN_EVENTS = ("response.created", "response.in_progress")


class _ResponseEvent(Struct):
    type: str = ""
    response: Raw = _EMPTY_OBJECT


class ResponsesAggregator(StreamAggregator):
    """Aggregator of Responses, whose last event contains the whole answer."""

    def __init__(self) -> None:
        super().__init__()
        self._document: dict[str, Raw] = {}

    def _add_event(self, event: bytes) -> None:
        decoded = msgspec.json.decode(event, type=_ResponseEvent)
        if decoded.type == "response.completed":
            self._document = msgspec.json.decode(decoded.response, type=dict[str, Raw])
            self.is_complete = True
        elif not decoded.type.startswith("response."):
            _raise_stream_error(event)
        self.has_started = self.has_started or decoded.type not in _PRE_TOKEN_EVENTS

    def document(self) -> bytes:
        document = self._document
        # The document at the end of a stream lacks `completed_at`, which equals `created_at` here.
        document["completed_at"] = document.get("created_at", _NULL)
        return _encode(document)


# --- Anthropic ---------------------------------------------------------------------------------------


class _BlockDelta(Struct):
    text: str = ""
    thinking: str = ""
    signature: str = ""
    partial_json: str = ""


class _MessageEnd(Struct):
    stop_reason: Raw = _NULL
    stop_sequence: Raw = _NULL


class _MessageEvent(Struct):
    type: str = ""
    # A text if the event is an error.
    message: Raw = _EMPTY_OBJECT
    index: int = 0
    content_block: dict[str, Any] = {}
    delta: Raw = _EMPTY_OBJECT
    usage: dict[str, Any] = {}


_decode_message_event = msgspec.json.Decoder(_MessageEvent).decode


class MessagesAggregator(StreamAggregator):
    def __init__(self) -> None:
        super().__init__()
        self._message: dict[str, Any] = {}
        self._stop_fields: dict[str, Any] = {}
        self._prompt_usage: dict[str, Any] = {}
        self._completion_usage: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._deltas: dict[int, list[_BlockDelta]] = {}

    def _add_event(self, event: bytes) -> None:
        decoded = _decode_message_event(event)
        match decoded.type:
            case "message_start":
                self._message = msgspec.json.decode(decoded.message, type=dict[str, Any])
                self._prompt_usage = msgspec.convert(self._message.get("usage", {}), dict[str, Any])
                self.has_started = True
            case "content_block_start":
                self.has_started = True
                self._blocks[decoded.index] = decoded.content_block
                self._deltas[decoded.index] = []
            case "content_block_delta":
                self._deltas[decoded.index].append(msgspec.json.decode(decoded.delta, type=_BlockDelta))
            case "message_delta":
                end = msgspec.json.decode(decoded.delta, type=_MessageEnd)
                self._stop_fields = {"stop_reason": end.stop_reason, "stop_sequence": end.stop_sequence}
                self._completion_usage = decoded.usage
            case "message_stop":
                self.is_complete = True
            case "content_block_stop" | "ping":
                pass
            case _:
                _raise_stream_error(event)

    def document(self) -> bytes:
        blocks = [_merge_deltas(block, self._deltas[index]) for index, block in sorted(self._blocks.items())]
        usage = {**self._prompt_usage, **self._completion_usage}
        return _encode({**self._message, **self._stop_fields, "usage": usage, "content": blocks})

    @property
    def lacks_start_event(self) -> bool:
        return not self._message


def _merge_deltas(block: dict[str, Any], deltas: list[_BlockDelta]) -> dict[str, Any]:
    """Return a content block with the deltas that followed its start."""
    filled = dict(block)
    for name in ("text", "thinking", "signature"):
        if more := "".join(getattr(piece, name) for piece in deltas):
            filled[name] = filled.get(name, "") + more
    # llama-server's start of a tool call lacks the empty input that Anthropic's has.
    if block.get("type") == "tool_use":
        try:
            filled["input"] = msgspec.json.decode("".join(piece.partial_json for piece in deltas) or "{}")
        except DECODE_ERRORS:
            # The token limit cut it off.
            filled["input"] = {}
    return filled


AGGREGATOR_OF_PATH: Mapping[bytes, Callable[[], StreamAggregator]] = MappingProxyType(
    {
        b"/v1/chat/completions": ChatAggregator,
        b"/v1/completions": CompletionAggregator,
        b"/v1/responses": ResponsesAggregator,
        b"/v1/messages": MessagesAggregator,
    }
)
