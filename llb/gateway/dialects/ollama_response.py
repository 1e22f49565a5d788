"""An engine's answer in OpenAI's dialect, and the same as Ollama's clients read it. Pure, but for the clock it is given.

An answer is a stream of SSE events, or a document; what is made of it is a line of JSON for each event, or one line.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from enum import Enum
from typing import Any

import msgspec
from msgspec import Raw, Struct

from llb.errors import LlbError
from llb.gateway.http.engine_errors import translate_engine_error
from llb.gateway.stream.sse import DataLineReader
from llb.gateway.stream.usage_parser import EngineTimings
from llb.wire.decoding import DECODE_ERRORS

_NS_PER_MS = 1_000_000


class ResponseShape(Enum):
    """In which field the words of an answer stand."""

    CHAT = "message"
    GENERATE = "response"


class RequestClock(Struct, frozen=True):
    """What time it is (UTC), how long the request has taken, and how long of it the model took to load."""

    now: Callable[[], datetime]
    total_s: Callable[[], float]
    load_s: Callable[[], float]


# --- what the engine says ----------------------------------------------------------------------------


class _Function(Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(Struct):
    index: int = 0
    id: str | None = None
    function: _Function = msgspec.field(default_factory=_Function)


class _MessageDelta(Struct):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(Struct):
    """One of a chat, streamed (`delta`) or not (`message`), or of a completion (`text`)."""

    delta: _MessageDelta | None = None
    message: _MessageDelta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Usage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Error(Struct):
    message: str = ""
    code: int | str = ""


class _Event(Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    timings: EngineTimings | None = None
    error: _Error | None = None


class _Vector(Struct):
    embedding: Raw
    index: int = 0


class _Vectors(Struct):
    data: list[_Vector]
    usage: _Usage | None = None


# --- what the client reads ---------------------------------------------------------------------------


class _OllamaFunction(Struct):
    name: str
    arguments: dict[str, Any]
    index: int


class _OllamaToolCall(Struct, omit_defaults=True):
    function: _OllamaFunction
    id: str | None = None


class _Message(Struct, omit_defaults=True):
    role: str
    content: str
    thinking: str | None = None
    tool_calls: list[_OllamaToolCall] | None = None


class _Counts(Struct, omit_defaults=True):
    """How it went; times in nanoseconds."""

    total_duration: int | None
    load_duration: int | None
    prompt_eval_count: int | None = None
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None


class _ChatLine(Struct, omit_defaults=True, kw_only=True):
    model: str
    created_at: datetime
    message: _Message
    done: bool
    done_reason: str | None = None


class _GenerateLine(Struct, omit_defaults=True, kw_only=True):
    model: str
    created_at: datetime
    response: str
    thinking: str | None = None
    done: bool
    done_reason: str | None = None


class _EmbedResponse(Struct, kw_only=True):
    model: str
    embeddings: list[Raw]


_encode = msgspec.json.Encoder().encode
# They end a line to Python's `splitlines`, by which the official client reads; inside JSON they may be spelled.
_LINE_SEPARATORS = ((b"\xc2\x85", b"\\u0085"), (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))
_decode_event = msgspec.json.Decoder(_Event).decode


def error_body(error: LlbError) -> dict[str, str]:
    """An error as Ollama's clients read it."""
    return {"error": error.message}


class ResponseTranslator:
    """One answer on its way. `feed` takes the bytes of a stream, however they are cut; `document` a whole answer."""

    def __init__(self, requested_model: str, shape: ResponseShape, clock: RequestClock) -> None:
        """`asked` is what the client calls the model."""
        self._requested_model = requested_model
        self._shape = shape
        self._clock = clock
        self._lines = DataLineReader()
        self._tool_calls: dict[int, _ToolCall] = {}
        self._finish_reason: str | None = None
        self._usage = _Usage()
        self._timings = EngineTimings()
        self._is_finished = False

    def feed(self, data: bytes) -> bytes:
        """The lines that follow from these bytes, perhaps none."""
        return b"".join(map(self._translate_event, self._lines.feed(data)))

    def finish(self) -> bytes:
        """The last line, where the stream has not brought it."""
        last = self.feed(b"\n") if self._lines.has_partial_line else b""
        return last + self._last_lines()

    def translate_document(self, body: bytes) -> bytes:
        """The one line of an answer that is no stream."""
        event = _decode_event(body)
        words = self._record_event(event)
        calls = self._complete_tool_calls()
        return self._encode_line(words.content or "", words.reasoning_content, calls, done=True)

    def translate_empty(self, reason: str) -> bytes:
        """The one line of a request that asked for no words: the model was loaded, or unloaded."""
        self._finish_reason = reason
        return self._encode_line("", None, None, done=True)

    def _translate_event(self, data: bytes) -> bytes:
        if self._is_finished:
            return b""
        if data == b"[DONE]":
            return self._last_lines()
        try:
            event = _decode_event(data)
        except DECODE_ERRORS:
            return b""  # nothing that an engine of ours says
        if event.error is not None:
            self._is_finished = True
            return _as_json_line(_encode({"error": _error_message(event.error, data)}))
        words = self._record_event(event)
        if not words.content and not words.reasoning_content:
            return b""
        return self._encode_line(words.content or "", words.reasoning_content, None, done=False)

    def _last_lines(self) -> bytes:
        if self._is_finished:
            return b""
        self._is_finished = True
        calls = self._complete_tool_calls()
        told = b"" if calls is None else self._encode_line("", None, calls, done=False)
        return told + self._encode_line("", None, None, done=True)

    def _record_event(self, event: _Event) -> _MessageDelta:
        """Note the counts and calls of an event; returns its words."""
        self._usage = event.usage or self._usage
        self._timings = event.timings or self._timings
        words = _MessageDelta()
        for choice in event.choices:
            part = choice.delta or choice.message or _MessageDelta(content=choice.text)
            self._finish_reason = choice.finish_reason or self._finish_reason
            for call in part.tool_calls or ():
                self._add_tool_call(call, is_complete=choice.message is not None)
            words = part
        return words

    def _add_tool_call(self, call: _ToolCall, *, is_complete: bool) -> None:
        """Calls of a stream come in pieces, told apart by their index."""
        index = len(self._tool_calls) if is_complete else call.index
        known = self._tool_calls.setdefault(index, _ToolCall(index))
        known.id = call.id or known.id
        known.function.name = call.function.name or known.function.name
        known.function.arguments = (known.function.arguments or "") + (call.function.arguments or "")

    def _complete_tool_calls(self) -> list[_OllamaToolCall] | None:
        """The calls that are complete: one that a limit of tokens cut off has no arguments that could be read."""
        told: list[_OllamaToolCall] = []
        for call in self._tool_calls.values():
            try:
                arguments = msgspec.json.decode(call.function.arguments or "{}", type=dict[str, Any])
            except DECODE_ERRORS:
                continue
            told.append(
                _OllamaToolCall(_OllamaFunction(call.function.name or "", arguments, len(told)), call.id)
            )
        return told or None

    def _encode_line(
        self, text: str, thinking: str | None, calls: list[_OllamaToolCall] | None, *, done: bool
    ) -> bytes:
        line: _ChatLine | _GenerateLine
        now = self._clock.now()
        if self._shape is ResponseShape.CHAT:
            said = _Message("assistant", text, thinking or None, calls)
            line = _ChatLine(model=self._requested_model, created_at=now, message=said, done=done)
        else:
            line = _GenerateLine(
                model=self._requested_model,
                created_at=now,
                response=text,
                thinking=thinking or None,
                done=done,
            )
        if not done:
            return _as_json_line(_encode(line))
        line.done_reason = "stop" if self._finish_reason in (None, "tool_calls") else self._finish_reason
        return _as_json_line(_merge_objects(line, _build_counts(self._clock, self._usage, self._timings)))


def translate_embeddings(body: bytes, requested_model: str, clock: RequestClock) -> bytes:
    """The answer of `/api/embed`; the vectors are not looked at."""
    answer = msgspec.json.decode(body, type=_Vectors)
    told = _EmbedResponse(
        model=requested_model, embeddings=[vector.embedding for vector in _sorted_vectors(answer)]
    )
    return _merge_objects(told, _build_counts(clock, answer.usage or _Usage(), EngineTimings()))


def translate_legacy_embedding(body: bytes) -> bytes:
    """The answer of `/api/embeddings`."""
    [vector] = msgspec.json.decode(body, type=_Vectors).data
    return _encode({"embedding": vector.embedding})


def _sorted_vectors(answer: _Vectors) -> list[_Vector]:
    return sorted(answer.data, key=lambda vector: vector.index)


def _as_json_line(document: bytes) -> bytes:
    for end, spelled in _LINE_SEPARATORS:
        document = document.replace(end, spelled)
    return document + b"\n"


def _merge_objects(line: Struct, counts: _Counts) -> bytes:
    """One object of both, the counts at its end, where a person looks for them."""
    return _encode(line)[:-1] + b"," + _encode(counts)[1:]


def _build_counts(clock: RequestClock, usage: _Usage, timings: EngineTimings) -> _Counts:
    prompt = None if timings.prompt_n is None else timings.cache_n + timings.prompt_n
    return _Counts(
        total_duration=_ms_to_ns(clock.total_s() * 1000),
        load_duration=_ms_to_ns(clock.load_s() * 1000),
        prompt_eval_count=prompt if usage.prompt_tokens is None else usage.prompt_tokens,
        prompt_eval_duration=_ms_to_ns(timings.prompt_ms),
        eval_count=timings.predicted_n if usage.completion_tokens is None else usage.completion_tokens,
        eval_duration=_ms_to_ns(timings.predicted_ms),
    )


def _ms_to_ns(ms: float | None) -> int | None:
    return None if ms is None else round(ms * _NS_PER_MS)


def _error_message(error: _Error, data: bytes) -> str:
    """llb's own errors have a code in words; what an engine says must not show where its files are."""
    return translate_engine_error(error.code, data).message if isinstance(error.code, int) else error.message
