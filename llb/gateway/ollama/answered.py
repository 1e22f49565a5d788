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
from llb.gateway.engine_errors import translate_engine_error
from llb.gateway.usage import Timings
from llb.wire.reading import UNREADABLE

_NS_A_MS = 1_000_000


class Shape(Enum):
    """In which field the words of an answer stand."""

    CHAT = "message"
    GENERATE = "response"


class Clock(Struct, frozen=True):
    """What time it is (UTC), how long the request has taken, and how long of it the model took to load."""

    now: Callable[[], datetime]
    total_s: Callable[[], float]
    load_s: Callable[[], float]


# --- what the engine says ----------------------------------------------------------------------------


class _Function(Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(Struct):
    index: int = 0
    id: str | None = None
    function: _Function = msgspec.field(default_factory=_Function)


class _Part(Struct):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(Struct):
    """One of a chat, streamed (`delta`) or not (`message`), or of a completion (`text`)."""

    delta: _Part | None = None
    message: _Part | None = None
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
    timings: Timings | None = None
    error: _Error | None = None


class _Vector(Struct):
    embedding: Raw
    index: int = 0


class _Vectors(Struct):
    data: list[_Vector]
    usage: _Usage | None = None


# --- what the client reads ---------------------------------------------------------------------------


class _ToldFunction(Struct):
    name: str
    arguments: dict[str, Any]
    index: int


class _ToldCall(Struct, omit_defaults=True):
    function: _ToldFunction
    id: str | None = None


class _Message(Struct, omit_defaults=True):
    role: str
    content: str
    thinking: str | None = None
    tool_calls: list[_ToldCall] | None = None


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


class _Embedded(Struct, kw_only=True):
    model: str
    embeddings: list[Raw]


_encode = msgspec.json.Encoder().encode
# They end a line to Python's `splitlines`, by which the official client reads; inside JSON they may be spelled.
_ENDS_OF_LINES = ((b"\xc2\x85", b"\\u0085"), (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))
_decode_event = msgspec.json.Decoder(_Event).decode


def error_body(error: LlbError) -> dict[str, str]:
    """An error as Ollama's clients read it."""
    return {"error": error.message}


class Answer:
    """One answer on its way. `feed` takes the bytes of a stream, however they are cut; `document` a whole answer."""

    def __init__(self, asked: str, shape: Shape, clock: Clock) -> None:
        """`asked` is what the client calls the model."""
        self._asked = asked
        self._shape = shape
        self._clock = clock
        self._rest = b""
        self._calls: dict[int, _Call] = {}
        self._finish: str | None = None
        self._usage = _Usage()
        self._timings = Timings()
        self._ended = False

    def feed(self, data: bytes) -> bytes:
        """The lines that follow from these bytes, perhaps none."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return b"".join(self._line(line[5:].strip()) for line in lines if line.startswith(b"data:"))

    def close(self) -> bytes:
        """The last line, where the stream has not brought it."""
        last = self.feed(b"\n") if self._rest else b""
        return last + self._last()

    def document(self, body: bytes) -> bytes:
        """The one line of an answer that is no stream."""
        event = _decode_event(body)
        words = self._take(event)
        calls = self._told_calls()
        return self._words(words.content or "", words.reasoning_content, calls, done=True)

    def done(self, reason: str) -> bytes:
        """The one line of a request that asked for no words: the model was loaded, or unloaded."""
        self._finish = reason
        return self._words("", None, None, done=True)

    def _line(self, data: bytes) -> bytes:
        if self._ended:
            return b""
        if data == b"[DONE]":
            return self._last()
        try:
            event = _decode_event(data)
        except UNREADABLE:
            return b""  # nothing that an engine of ours says
        if event.error is not None:
            self._ended = True
            return _one_line(_encode({"error": _sentence(event.error, data)}))
        words = self._take(event)
        if not words.content and not words.reasoning_content:
            return b""
        return self._words(words.content or "", words.reasoning_content, None, done=False)

    def _last(self) -> bytes:
        if self._ended:
            return b""
        self._ended = True
        calls = self._told_calls()
        told = b"" if calls is None else self._words("", None, calls, done=False)
        return told + self._words("", None, None, done=True)

    def _take(self, event: _Event) -> _Part:
        """Note the counts and calls of an event; returns its words."""
        self._usage = event.usage or self._usage
        self._timings = event.timings or self._timings
        words = _Part()
        for choice in event.choices:
            part = choice.delta or choice.message or _Part(content=choice.text)
            self._finish = choice.finish_reason or self._finish
            for call in part.tool_calls or ():
                self._add_call(call, whole=choice.message is not None)
            words = part
        return words

    def _add_call(self, call: _Call, *, whole: bool) -> None:
        """Calls of a stream come in pieces, told apart by their index."""
        index = len(self._calls) if whole else call.index
        known = self._calls.setdefault(index, _Call(index))
        known.id = call.id or known.id
        known.function.name = call.function.name or known.function.name
        known.function.arguments = (known.function.arguments or "") + (call.function.arguments or "")

    def _told_calls(self) -> list[_ToldCall] | None:
        """The calls that are complete: one that a limit of tokens cut off has no arguments that could be read."""
        told: list[_ToldCall] = []
        for call in self._calls.values():
            try:
                arguments = msgspec.json.decode(call.function.arguments or "{}", type=dict[str, Any])
            except UNREADABLE:
                continue
            told.append(_ToldCall(_ToldFunction(call.function.name or "", arguments, len(told)), call.id))
        return told or None

    def _words(self, text: str, thinking: str | None, calls: list[_ToldCall] | None, *, done: bool) -> bytes:
        line: _ChatLine | _GenerateLine
        now = self._clock.now()
        if self._shape is Shape.CHAT:
            said = _Message("assistant", text, thinking or None, calls)
            line = _ChatLine(model=self._asked, created_at=now, message=said, done=done)
        else:
            line = _GenerateLine(
                model=self._asked, created_at=now, response=text, thinking=thinking or None, done=done
            )
        if not done:
            return _one_line(_encode(line))
        line.done_reason = "stop" if self._finish in (None, "tool_calls") else self._finish
        return _one_line(_joined(line, _count(self._clock, self._usage, self._timings)))


def embedded(body: bytes, asked: str, clock: Clock) -> bytes:
    """The answer of `/api/embed`; the vectors are not looked at."""
    answer = msgspec.json.decode(body, type=_Vectors)
    told = _Embedded(model=asked, embeddings=[vector.embedding for vector in _in_order(answer)])
    return _joined(told, _count(clock, answer.usage or _Usage(), Timings()))


def old_embedded(body: bytes) -> bytes:
    """The answer of `/api/embeddings`."""
    [vector] = msgspec.json.decode(body, type=_Vectors).data
    return _encode({"embedding": vector.embedding})


def _in_order(answer: _Vectors) -> list[_Vector]:
    return sorted(answer.data, key=lambda vector: vector.index)


def _one_line(document: bytes) -> bytes:
    for end, spelled in _ENDS_OF_LINES:
        document = document.replace(end, spelled)
    return document + b"\n"


def _joined(line: Struct, counts: _Counts) -> bytes:
    """One object of both, the counts at its end, where a person looks for them."""
    return _encode(line)[:-1] + b"," + _encode(counts)[1:]


def _count(clock: Clock, usage: _Usage, timings: Timings) -> _Counts:
    prompt = None if timings.prompt_n is None else timings.cache_n + timings.prompt_n
    return _Counts(
        total_duration=_ns(clock.total_s() * 1000),
        load_duration=_ns(clock.load_s() * 1000),
        prompt_eval_count=prompt if usage.prompt_tokens is None else usage.prompt_tokens,
        prompt_eval_duration=_ns(timings.prompt_ms),
        eval_count=timings.predicted_n if usage.completion_tokens is None else usage.completion_tokens,
        eval_duration=_ns(timings.predicted_ms),
    )


def _ns(ms: float | None) -> int | None:
    return None if ms is None else round(ms * _NS_A_MS)


def _sentence(error: _Error, data: bytes) -> str:
    """llb's own errors have a code in words; what an engine says must not show where its files are."""
    return translate_engine_error(error.code, data).message if isinstance(error.code, int) else error.message
