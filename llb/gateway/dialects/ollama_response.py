"""Translation of an engine's answer from OpenAI's dialect to Ollama's. Pure, except for the clock.

A stream of SSE events becomes a line of JSON for each event. A complete document becomes one line.
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
    """The field of Ollama's answer that holds the text."""

    CHAT = "message"
    GENERATE = "response"


class RequestClock(Struct, frozen=True):
    """Clock of one request."""

    # The current time in UTC.
    now: Callable[[], datetime]
    # Time since the request arrived.
    total_s: Callable[[], float]
    # The part of it that loading the model took.
    load_s: Callable[[], float]


# --- the engine's answer -----------------------------------------------------------------------------


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
    """Choice of a chat, streamed (`delta`) or complete (`message`), or of a completion (`text`)."""

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


# --- Ollama's answer ---------------------------------------------------------------------------------


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
    """Token counts, and durations in nanoseconds."""

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
# Answer of an engine to no text.
EMPTY_VECTORS = b'{"data":[]}'
# The official client splits lines with `str.splitlines`, which also splits at these characters.
_LINE_SEPARATORS = ((b"\xc2\x85", b"\\u0085"), (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))
_decode_event = msgspec.json.Decoder(_Event).decode


def error_body(error: LlbError) -> dict[str, str]:
    """Return the body of `error` in Ollama's format."""
    return {"error": error.message}


class ResponseTranslator:
    """Translates one answer: a stream with `feed` and `finish`, or a document with `translate_document`."""

    def __init__(self, requested_model: str, shape: ResponseShape, clock: RequestClock) -> None:
        """`requested_model` is the model name that the client used, which Ollama's answers repeat."""
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
        """Return the lines for the next bytes of a stream, which may end anywhere; empty for none."""
        return b"".join(map(self._translate_event, self._lines.feed(data)))

    def finish(self) -> bytes:
        """Return the last line, empty if the stream has already ended with one."""
        partial_line = self.feed(b"\n") if self._lines.has_partial_line else b""
        return partial_line + self._last_lines()

    def translate_document(self, body: bytes) -> bytes:
        """Return the line for a complete answer."""
        event = _decode_event(body)
        message = self._record_event(event)
        calls = self._complete_tool_calls()
        return self._encode_line(message.content or "", message.reasoning_content, calls, done=True)

    def translate_empty(self, reason: str) -> bytes:
        """Return the line for a request that has only loaded or unloaded the model, as `reason` says."""
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
            # llama-server sends no such event.
            return b""
        if event.error is not None:
            self._is_finished = True
            return _as_json_line(_encode({"error": _error_message(event.error, data)}))
        delta = self._record_event(event)
        if not delta.content and not delta.reasoning_content:
            return b""
        return self._encode_line(delta.content or "", delta.reasoning_content, None, done=False)

    def _last_lines(self) -> bytes:
        if self._is_finished:
            return b""
        self._is_finished = True
        calls = self._complete_tool_calls()
        call_line = b"" if calls is None else self._encode_line("", None, calls, done=False)
        return call_line + self._encode_line("", None, None, done=True)

    def _record_event(self, event: _Event) -> _MessageDelta:
        """Record the counts and tool calls of an event; returns its text."""
        self._usage = event.usage or self._usage
        self._timings = event.timings or self._timings
        delta = _MessageDelta()
        for choice in event.choices:
            delta = choice.delta or choice.message or _MessageDelta(content=choice.text)
            self._finish_reason = choice.finish_reason or self._finish_reason
            for call in delta.tool_calls or ():
                self._add_tool_call(call, is_complete=choice.message is not None)
        return delta

    def _add_tool_call(self, call: _ToolCall, *, is_complete: bool) -> None:
        """Add a tool call, or a part of one: a stream sends calls in parts with the same index."""
        index = len(self._tool_calls) if is_complete else call.index
        merged = self._tool_calls.setdefault(index, _ToolCall(index))
        merged.id = call.id or merged.id
        merged.function.name = call.function.name or merged.function.name
        merged.function.arguments = (merged.function.arguments or "") + (call.function.arguments or "")

    def _complete_tool_calls(self) -> list[_OllamaToolCall] | None:
        """Return the tool calls, without any whose arguments a token limit has truncated."""
        complete: list[_OllamaToolCall] = []
        for call in self._tool_calls.values():
            try:
                arguments = msgspec.json.decode(call.function.arguments or "{}", type=dict[str, Any])
            except DECODE_ERRORS:
                continue
            function = _OllamaFunction(call.function.name or "", arguments, len(complete))
            complete.append(_OllamaToolCall(function, call.id))
        return complete or None

    def _encode_line(
        self, text: str, thinking: str | None, calls: list[_OllamaToolCall] | None, *, done: bool
    ) -> bytes:
        line: _ChatLine | _GenerateLine
        now = self._clock.now()
        if self._shape is ResponseShape.CHAT:
            message = _Message("assistant", text, thinking or None, calls)
            line = _ChatLine(model=self._requested_model, created_at=now, message=message, done=done)
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
    """Return the answer of `/api/embed`; the vectors are copied without decoding their numbers."""
    vectors = msgspec.json.decode(body, type=_Vectors)
    by_index = sorted(vectors.data, key=lambda vector: vector.index)
    response = _EmbedResponse(model=requested_model, embeddings=[vector.embedding for vector in by_index])
    return _merge_objects(response, _build_counts(clock, vectors.usage or _Usage(), EngineTimings()))


def translate_legacy_embedding(body: bytes) -> bytes:
    """Return the answer of `/api/embeddings`."""
    vectors = msgspec.json.decode(body, type=_Vectors).data
    return _encode({"embedding": vectors[0].embedding if vectors else []})


def _as_json_line(document: bytes) -> bytes:
    for separator, escaped in _LINE_SEPARATORS:
        document = document.replace(separator, escaped)
    return document + b"\n"


def _merge_objects(line: Struct, counts: _Counts) -> bytes:
    """Return the JSON object with the fields of both, the counts last."""
    return _encode(line)[:-1] + b"," + _encode(counts)[1:]


def _build_counts(clock: RequestClock, usage: _Usage, timings: EngineTimings) -> _Counts:
    prompt_tokens = None if timings.prompt_n is None else timings.cache_n + timings.prompt_n
    return _Counts(
        total_duration=_ms_to_ns(clock.total_s() * 1000),
        load_duration=_ms_to_ns(clock.load_s() * 1000),
        prompt_eval_count=prompt_tokens if usage.prompt_tokens is None else usage.prompt_tokens,
        prompt_eval_duration=_ms_to_ns(timings.prompt_ms),
        eval_count=timings.predicted_n if usage.completion_tokens is None else usage.completion_tokens,
        eval_duration=_ms_to_ns(timings.predicted_ms),
    )


def _ms_to_ns(ms: float | None) -> int | None:
    return None if ms is None else round(ms * _NS_PER_MS)


def _error_message(error: _Error, data: bytes) -> str:
    # llb's own errors have a textual code. The message of an engine may contain paths of its host.
    return translate_engine_error(error.code, data).message if isinstance(error.code, int) else error.message
