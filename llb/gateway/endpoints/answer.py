"""Answers of endpoints on their way to the client: errors before the first content, usage that the client did
not ask for, the name of the model, and a bound of the size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Raw, Struct

from llb.errors import EndpointFailed
from llb.gateway.http.engine_errors import safe_message
from llb.gateway.http.upstream_errors import AnswerFailed, InvalidResponse
from llb.gateway.stream.keepalive import BodySink, ClientPipe, translate_pipe
from llb.gateway.stream.sse import parse_data_line
from llb.gateway.stream.start_event import StartEvent
from llb.gateway.stream.usage_parser import Usage
from llb.gateway.translation.answer_stream import AnswerStream
from llb.gateway.translation.provider_errors import ProviderFailure
from llb.gateway.translation.token_usage import TokenUsage
from llb.wire.decoding import DECODE_ERRORS

# Largest answer; real ones are far smaller.
MAX_ANSWER_BYTES = 512 * 1024 * 1024
# Events before the first content of an answer that is translated, such as pings.
MAX_OPENING_BYTES = 1024 * 1024
# A document above it is passed on as it is.
MAX_REWRITTEN_BYTES = 16 * 1024 * 1024
# Events that may precede the first content, before they are passed on whatever they are.
MAX_HELD_BYTES = 64 * 1024

_OPENING_EVENTS = frozenset(
    {"message_start", "ping", "response.created", "response.in_progress", "response.queued"}
)


class _Choice(Struct):
    """Fields that tell whether a chunk has content, or is the last one."""

    delta: dict[str, Any] | None = None
    finish_reason: Any = None
    text: Any = None


class _Event(Struct):
    """Fields that tell an error or the first content."""

    type: str | None = None
    error: Raw = Raw()
    choices: list[_Choice] | None = None


_event_decoder = msgspec.json.Decoder(_Event)


class OpeningFilter:
    """Holds the events before the first content, so that an error among them can still lead elsewhere.

    It has the interface of `ProgressFilter`.
    """

    start_event: StartEvent | None = None

    def __init__(self, endpoint_name: str, redact: Callable[[str], str]) -> None:
        self.is_finished = False
        self._endpoint_name = endpoint_name
        self._redact = redact
        self._held = b""

    def filter_events(self, events: bytes) -> bytes:
        """Return the events to pass on: nothing until the first content. Raises `EndpointFailed`."""
        self._held += events
        if len(self._held) <= MAX_HELD_BYTES:
            for line in events.splitlines():
                data = parse_data_line(line)
                if data is None or data == b"[DONE]":
                    continue
                if not self._is_opening(data):
                    break
            else:
                return b""
        self.is_finished = True
        held, self._held = self._held, b""
        return held

    def flush(self) -> bytes:
        """Return the held bytes, for a stream that ends before its first content."""
        return b"" if self.is_finished else self._held

    def _is_opening(self, data: bytes) -> bool:
        try:
            event = _event_decoder.decode(data)
        except DECODE_ERRORS:
            return False
        if event.error and bytes(event.error) != b"null":
            reason = safe_message(_message_of(event.error), self._redact) or "no reason is given"
            raise EndpointFailed(f"Endpoint '{self._endpoint_name}' failed: {reason}")
        if event.type is not None:
            return event.type in _OPENING_EVENTS
        return _has_no_content(event.choices or [])


def _has_no_content(choices: list[_Choice]) -> bool:
    """Whether the choices of a chunk have neither content nor an end."""
    for choice in choices:
        if choice.finish_reason or choice.text or choice.delta is None:
            return False
        if any(value for name, value in choice.delta.items() if name != "role"):
            return False
    return bool(choices)


def _message_of(raw: Raw) -> str:
    try:
        error = msgspec.json.decode(raw)
    except DECODE_ERRORS:
        error = ""
    message = error.get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) else ""


class TranslatedAnswer:
    """Translator of one answer, with failures like those of the exchange."""

    def __init__(
        self,
        stream: AnswerStream,
        translate: Callable[[bytes], tuple[bytes, TokenUsage]],
        redact: Callable[[str], str],
    ) -> None:
        self._stream = stream
        self._redact = redact
        self._translate = translate
        self._document_usage: TokenUsage | None = None
        self._received_bytes = 0

    @property
    def usage(self) -> Usage:
        return (self._document_usage or self._stream.usage).recorded

    def feed(self, data: bytes) -> bytes:
        self._received_bytes += len(data)
        most = MAX_ANSWER_BYTES if self._stream.has_content else MAX_OPENING_BYTES
        if self._received_bytes > most:
            raise AnswerFailed("an answer without " + ("an end" if self._stream.has_content else "content"))
        try:
            return self._stream.feed(data)
        except ProviderFailure as failure:
            raise self._answer_failed(failure) from failure

    def finish(self) -> bytes:
        try:
            return self._stream.finish()
        except ProviderFailure as failure:
            raise self._answer_failed(failure) from failure

    def raise_failure(self) -> None:
        """Raise a failure that followed the text that `feed` returned last."""
        if self._stream.failure is not None:
            raise self._answer_failed(self._stream.failure)

    def translate_document(self, body: bytes) -> bytes:
        try:
            document, self._document_usage = self._translate(body)
        except ProviderFailure as failure:
            raise self._answer_failed(failure) from failure
        return document

    def _answer_failed(self, failure: ProviderFailure) -> AnswerFailed:
        return AnswerFailed(safe_message(failure.message, self._redact) or "no reason is given")


class EndpointAnswerSink:
    """Sink for the answer of an endpoint: rewrites it as needed, and bounds its size.

    Where the endpoint repeats the model's name that it got, the answer has the name that the client sent; a
    more precise name stays.
    """

    def __init__(
        self,
        sink: BodySink,
        *,
        served_as: str,
        model_id: str,
        is_stream: bool,
        drops_usage: bool,
        translate_document: Callable[[bytes], bytes] | None = None,
    ) -> None:
        """A document is translated as a whole by `translate_document`."""
        self._sink = sink
        self._served_as = served_as
        self._model_id = model_id
        self._is_stream = is_stream
        self._drops_usage = drops_usage
        self._total_bytes = 0
        self._is_too_long = False
        self._translate_document = translate_document
        is_rewritten = served_as != model_id or translate_document is not None
        self._held: list[bytes] | None = [] if not is_stream and is_rewritten else None
        self._replacements = _name_replacements(served_as, model_id) if served_as != model_id else ()

    async def write(self, data: bytes, /, *, last: bool = False) -> None:
        """Write whole events, or a part of a document. Raises `InvalidResponse`."""
        self._count(data)
        if self._is_stream:
            if (events := self._rewrite_chunks(data)) or last:
                await self._sink.write(events, last=last)
            return
        if self._held is None:
            await self._sink.write(data, last=last)
            return
        self._held.append(data)
        if last:
            await self.flush()
        elif self._total_bytes > MAX_REWRITTEN_BYTES:
            if self._translate_document is not None:
                raise InvalidResponse("a document that is too large to be translated")
            held, self._held = b"".join(self._held), None
            await self._sink.write(held)

    def open_pipe(self) -> ClientPipe | None:
        """Return a pipe that does the same for the events of a stream."""
        return translate_pipe(self._sink, self.rewrite_events) if self._is_stream else None

    def rewrite_events(self, data: bytes) -> bytes:
        """Return whole events as the client gets them, maybe none. Raises `InvalidResponse`."""
        self._count(data)
        return self._rewrite_chunks(data)

    def rewrite_document(self, document: bytes) -> bytes:
        """Return a whole document as the client gets it. Raises `TransportError`."""
        self._count(document)
        return document if self._held is None else self._rewrite_whole(document)

    def _count(self, data: bytes) -> None:
        self._total_bytes += len(data)
        if self._total_bytes > MAX_ANSWER_BYTES and not self._is_too_long:
            # Once: the error event that follows is written, too.
            self._is_too_long = True
            raise InvalidResponse("an answer without an end")

    async def flush(self) -> None:
        """Write a document that was held; idempotent."""
        if self._held:
            document, self._held = b"".join(self._held), []
            await self._sink.write(self._rewrite_whole(document), last=True)

    def _rewrite_whole(self, document: bytes) -> bytes:
        if self._translate_document is not None:
            return self._translate_document(document)
        renamed = document
        for old, new in self._replacements:
            renamed = renamed.replace(old, new)
        if renamed.count(b'"model"') == 1:
            # The field of the document itself: decoding all others costs more than the rest.
            return renamed
        try:
            fields: dict[str, Any] = dict(msgspec.json.decode(document, type=dict[str, Raw]))
            if msgspec.json.decode(fields.get("model", b"null")) != self._served_as:
                return document
        except DECODE_ERRORS:
            return document
        fields["model"] = self._model_id
        return msgspec.json.encode(fields)

    def _rewrite_chunks(self, data: bytes) -> bytes:
        # A quote inside of a text is escaped, so only a field can match.
        for old, new in self._replacements:
            data = data.replace(old, new)
        if self._drops_usage and b'"usage"' in data:
            data = _without_usage_chunks(data)
        return data


@lru_cache(maxsize=1024)
def _name_replacements(served_as: str, model_id: str) -> tuple[tuple[bytes, bytes], ...]:
    """Return the name of the model in an answer as the endpoint writes it, and its replacement."""
    names = [msgspec.json.encode(name) for name in (served_as, model_id)]
    return tuple(
        (b'"model":%b%b' % (space, names[0]), b'"model":%b%b' % (space, names[1])) for space in (b"", b" ")
    )


def _without_usage_chunks(data: bytes) -> bytes:
    """Drop the chunks that have a usage and no choices."""
    kept = []
    for event in data.replace(b"\r\n", b"\n").split(b"\n\n"):
        lines = [value for line in event.splitlines() if (value := parse_data_line(line)) is not None]
        if not any(b'"usage"' in line and _is_usage_chunk(line) for line in lines):
            kept.append(event)
    return b"\n\n".join(kept)


class _Chunk(Struct):
    choices: list[Raw]
    usage: Raw


def _is_usage_chunk(data: bytes) -> bool:
    try:
        chunk = msgspec.json.decode(data, type=_Chunk)
    except DECODE_ERRORS:
        return False
    return not chunk.choices and bytes(chunk.usage) != b"null"
