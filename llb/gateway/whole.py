"""A stream of the engine's as the document that it would have been without `stream`: one class for each dialect. Pure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, field

from llb.errors import EngineFailed
from llb.gateway.engine_errors import translate_engine_error
from llb.wire.reading import UNREADABLE

_encode = msgspec.json.Encoder().encode
_ABSENT = Raw()
_NULL = Raw(b"null")
_NOTHING = Raw(b"{}")
_ERROR_STATUS = 500  # of an error that says none


class Whole(ABC):
    """One answer on its way. `feed` takes the bytes of a stream, however they are cut."""

    def __init__(self) -> None:
        self.begun = False  # its first token has come
        self.complete = False
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Raises `LlbError` where the engine says that it failed, or what cannot be read."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        try:
            for line in lines:
                if line.startswith(b"data:"):
                    self._take(line[5:].strip())
        except (*UNREADABLE, LookupError):
            raise EngineFailed("The engine answered something that makes no sense") from None

    @property
    def lacks_opening(self) -> bool:
        """Whether the event is missing with which it should have begun; it can still be fed."""
        return False

    @abstractmethod
    def document(self) -> bytes:
        """The answer, once it is `complete`."""

    @abstractmethod
    def _take(self, event: bytes) -> None: ...


class _Failure(Struct):
    """An error in a stream: OpenAI's stands in a field, that of the other dialects perhaps not."""

    error: Raw = _ABSENT
    code: int | str | None = None


def _raise_if_failure(event: bytes) -> None:
    """An engine that fails in its stream says what it would have said with a status."""
    told = msgspec.json.decode(event, type=_Failure)
    error = bytes(told.error) or event
    code = msgspec.json.decode(error, type=_Failure).code
    status = code if isinstance(code, int) else _ERROR_STATUS
    raise translate_engine_error(status, b'{"error":' + error + b"}")


# --- OpenAI: chat and completions --------------------------------------------------------------------


class _Function(Struct):
    name: str = ""
    arguments: str = ""


class _Call(Struct, omit_defaults=True):
    function: _Function = field(default_factory=_Function)
    index: int = 0
    id: str = ""


class _Logprobs(Struct):
    content: list[Raw] = []


class _Delta(Struct):
    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Call] | None = None


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


class _WholeCall(Struct, kw_only=True):
    type: str = "function"
    function: _Function
    id: str


class _Message(Struct, omit_defaults=True):
    role: str
    content: str
    reasoning_content: str = ""
    tool_calls: list[_WholeCall] = []


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


class _Choices(Whole):
    """What the two have in common: one choice, which comes in pieces."""

    kind: str

    def __init__(self) -> None:
        super().__init__()
        self._last = _Chunk()
        self._usage: Raw = _ABSENT
        self._timings: Raw = _ABSENT
        self._finish: str | None = None
        self._probabilities: list[Raw] = []

    def _take(self, event: bytes) -> None:
        if event == b"[DONE]":
            self.complete = True
            return
        chunk = _decode_chunk(event)
        if chunk.choices is None:
            _raise_if_failure(event)
            return
        self.begun = self.begun or not bytes(chunk.prompt_progress)
        self._last = chunk
        self._usage = chunk.usage if bytes(chunk.usage) else self._usage
        self._timings = chunk.timings if bytes(chunk.timings) else self._timings
        for choice in chunk.choices:
            self._finish = choice.finish_reason or self._finish
            if choice.logprobs is not None:
                self._probabilities += choice.logprobs.content
            self._add(choice)

    def document(self) -> bytes:
        last = self._last
        return _encode(
            _Completion(
                choices=self._told(_Logprobs(self._probabilities) if self._probabilities else None),
                created=last.created,
                model=last.model,
                system_fingerprint=last.system_fingerprint,
                object=self.kind,
                usage=_or_unset(self._usage),
                id=last.id,
                timings=_or_unset(self._timings),
            )
        )

    @abstractmethod
    def _add(self, choice: _Choice) -> None: ...

    @abstractmethod
    def _told(self, logprobs: _Logprobs | None) -> list[_ChatChoice] | list[_TextChoice]: ...


class WholeChat(_Choices):
    kind = "chat.completion"

    def __init__(self) -> None:
        super().__init__()
        self._role = "assistant"
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, _Call] = {}

    def _add(self, choice: _Choice) -> None:
        delta = choice.delta
        if delta is None:
            return
        self._role = delta.role or self._role
        if delta.content:
            self._content.append(delta.content)
        if delta.reasoning_content:
            self._reasoning.append(delta.reasoning_content)
        for call in delta.tool_calls or ():
            known = self._calls.setdefault(call.index, _Call())
            known.id += call.id
            known.function.name += call.function.name
            known.function.arguments += call.function.arguments

    def _told(self, logprobs: _Logprobs | None) -> list[_ChatChoice]:
        calls = [_WholeCall(function=call.function, id=call.id) for call in self._calls.values()]
        message = _Message(self._role, "".join(self._content), "".join(self._reasoning), calls)
        return [_ChatChoice(self._finish, 0, message, logprobs)]


class WholeText(_Choices):
    kind = "text_completion"

    def __init__(self) -> None:
        super().__init__()
        self._text: list[str] = []

    def _add(self, choice: _Choice) -> None:
        if choice.text:
            self._text.append(choice.text)

    def _told(self, logprobs: _Logprobs | None) -> list[_TextChoice]:
        return [_TextChoice("".join(self._text), 0, logprobs, self._finish)]


# --- OpenAI: Responses -------------------------------------------------------------------------------


_PRELUDE = ("response.created", "response.in_progress")


class _ResponseEvent(Struct):
    type: str = ""
    response: Raw = _NOTHING


class WholeResponse(Whole):
    """Its last event has all of it."""

    def __init__(self) -> None:
        super().__init__()
        self._document: dict[str, Raw] = {}

    def _take(self, event: bytes) -> None:
        told = msgspec.json.decode(event, type=_ResponseEvent)
        if told.type == "response.completed":
            self._document = msgspec.json.decode(told.response, type=dict[str, Raw])
            self.complete = True
        elif not told.type.startswith("response."):
            _raise_if_failure(event)
        self.begun = self.begun or told.type not in _PRELUDE

    def document(self) -> bytes:
        document = self._document
        # A stream's lacks this; where it has the other, both are the same moment.
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
    message: Raw = _NOTHING  # of an error that is all there is, a text
    index: int = 0
    content_block: dict[str, Any] = {}
    delta: Raw = _NOTHING
    usage: dict[str, Any] = {}


_decode_message_event = msgspec.json.Decoder(_MessageEvent).decode


class WholeMessage(Whole):
    def __init__(self) -> None:
        super().__init__()
        self._message: dict[str, Any] = {}
        self._end: dict[str, Any] = {}
        self._prompt: dict[str, Any] = {}  # the usage of the prompt, and of what was written
        self._written: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._pieces: dict[int, list[_BlockDelta]] = {}

    def _take(self, event: bytes) -> None:
        told = _decode_message_event(event)
        match told.type:
            case "message_start":
                self._message = msgspec.json.decode(told.message, type=dict[str, Any])
                self._prompt = msgspec.convert(self._message.get("usage", {}), dict[str, Any])
                self.begun = True
            case "content_block_start":
                self.begun = True
                self._blocks[told.index] = told.content_block
                self._pieces[told.index] = []
            case "content_block_delta":
                self._pieces[told.index].append(msgspec.json.decode(told.delta, type=_BlockDelta))
            case "message_delta":
                end = msgspec.json.decode(told.delta, type=_MessageEnd)
                self._end = {"stop_reason": end.stop_reason, "stop_sequence": end.stop_sequence}
                self._written = told.usage
            case "message_stop":
                self.complete = True
            case "content_block_stop" | "ping":
                pass
            case _:
                _raise_if_failure(event)

    def document(self) -> bytes:
        blocks = [_filled(block, self._pieces[index]) for index, block in sorted(self._blocks.items())]
        usage = {**self._prompt, **self._written}
        return _encode({**self._message, **self._end, "usage": usage, "content": blocks})

    @property
    def lacks_opening(self) -> bool:
        return not self._message


def _filled(block: dict[str, Any], pieces: list[_BlockDelta]) -> dict[str, Any]:
    """A block with what came after its start."""
    filled = dict(block)
    for name in ("text", "thinking", "signature"):
        if more := "".join(getattr(piece, name) for piece in pieces):
            filled[name] = filled.get(name, "") + more
    if "input" in block:
        try:
            filled["input"] = msgspec.json.decode("".join(piece.partial_json for piece in pieces) or "{}")
        except UNREADABLE:  # the limit of tokens cut it off
            filled["input"] = {}
    return filled


WHOLE: Mapping[bytes, Callable[[], Whole]] = MappingProxyType(
    {
        b"/v1/chat/completions": WholeChat,
        b"/v1/completions": WholeText,
        b"/v1/responses": WholeResponse,
        b"/v1/messages": WholeMessage,
    }
)
