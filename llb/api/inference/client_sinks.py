"""Sinks: the ways in which an answer reaches a client, as a stream, as NDJSON or buffered for translation."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from llb.api.incoming_request import DirectRequest, DirectWriter, IncomingRequest, ResponseWriter
from llb.api.responses import OCTET_STREAM, PassthroughResponse
from llb.gateway.dialects.ollama_response import ResponseTranslator
from llb.gateway.dialects.responses_answer import ResponsesAnswer
from llb.gateway.inference_call import ClientSink
from llb.gateway.observability.request_log import RequestRecord
from llb.gateway.stream.keepalive import ClientPipe, TranslatingPipe, open_pipe, translate_pipe
from llb.gateway.stream.sse import SSE_KEEPALIVE, is_event_stream_type
from llb.gateway.stream.transcript import Transcript, extract_prompt

NDJSON_CONTENT_TYPE = b"application/x-ndjson"
# White space before a line of JSON means nothing, and shows proxies that the connection is alive.
NDJSON_KEEPALIVE = b" "
IGNORED_HEADER = "x-llb-ignored"
MAX_IGNORED, MAX_IGNORED_CHARS = 16, 64
# The names come from the client.
_NOT_A_NAME = re.compile(r"[^A-Za-z0-9_.\[\]-]")


def routing_headers(node_name: str, queued_ms: int) -> dict[str, str]:
    """Return the headers that say which node answered and how long the request was queued."""
    return {"x-llb-node": node_name, "x-llb-queue-ms": str(queued_ms)}


def ignored_headers(ignored: Sequence[str]) -> dict[str, str]:
    """Return the header that lists ignored features; empty if there are none."""
    names = (_NOT_A_NAME.sub("_", name)[:MAX_IGNORED_CHARS] for name in ignored[:MAX_IGNORED])
    return {IGNORED_HEADER: ", ".join(names)} if ignored else {}


class ResponseSink:
    """Writes an answer as the response to a request.

    The response starts with the first bytes, so that its head and the first chunk leave in one write. If the
    first bytes are also the last, the whole response leaves in one write.
    """

    # Every open stream has one.
    __slots__ = (
        "_content_type",
        "_ended",
        "_headers",
        "_ignored",
        "_keepalive",
        "_record",
        "_request",
        "_response",
        "_rewrite_events",
        "_started",
        "_status",
    )

    def __init__(
        self,
        request: IncomingRequest,
        record: RequestRecord,
        *,
        headers: Mapping[str, str] | None = None,
        rewrite_events: Callable[[bytes], bytes] | None = None,
        keepalive: bytes = SSE_KEEPALIVE,
    ) -> None:
        """`keepalive` takes the place of SSE comments, in a dialect that has an event for it."""
        self._keepalive = keepalive
        self._request = request
        self._record = record
        self._rewrite_events = rewrite_events
        self._headers = headers
        self._started = self._ended = False
        self._status = 200
        self._content_type = "text/event-stream"
        self._ignored: tuple[str, ...] = ()
        self._response: ResponseWriter | None = None

    @property
    def started(self) -> bool:
        """Whether the client has received any bytes."""
        return self._started

    def note_ignored(self, ignored: Sequence[str]) -> None:
        """List ignored features in the head of the response."""
        self._ignored = tuple(ignored)

    def start_response(self, status: int, content_type: bytes, *, node_name: str, queued_ms: int) -> None:
        """Set the head of the response; nothing is written yet."""
        self._status = status
        self._content_type = content_type.decode("latin-1") or OCTET_STREAM
        self._headers = {**(self._headers or {}), **routing_headers(node_name, queued_ms)}

    async def write(self, data: bytes, /, *, last: bool = False) -> None:
        """Write some bytes; `last` ends the response."""
        if data == SSE_KEEPALIVE:
            data = self._keepalive
        elif self._rewrite_events is not None:
            data = self._rewrite_events(data)
        response = self._response or await self._start_response()
        self._ended = last
        await response.send(data, end_stream=last)

    def open_pipe(self) -> ClientPipe | None:
        """Return a pipe for the rest of a stream that has begun."""
        pipe = None if self._response is None or self._ended else open_pipe(self._response)
        if pipe is None or self._rewrite_events is None:
            return pipe
        opener: Callable[[ClientPipe], ClientPipe] | None = getattr(self._rewrite_events, "open_pipe", None)
        return TranslatingPipe(pipe, self._rewrite_events) if opener is None else opener(pipe)

    async def end(self) -> None:
        """End the response, if `write` has not."""
        if not self._ended:
            response = self._response or await self._start_response()
            await response.send(b"", end_stream=True)

    async def _start_response(self) -> ResponseWriter:
        response: ResponseWriter = await self._request.respond(self._make_head())
        self._response = response
        return response

    def _make_head(self) -> PassthroughResponse:
        """Return the head of the response, which begins now."""
        self._started = True
        record = self._record
        record.status = self._status
        headers = {**record.limit_headers, **(self._headers or {})}
        if self._ignored or record.ignored_fields:
            headers |= ignored_headers((*self._ignored, *record.ignored_fields))
        # Freed now: it is needed once, and a stream may be open for long.
        self._headers = None
        return PassthroughResponse(status=self._status, headers=headers, content_type=self._content_type)


class DirectResponseSink(ResponseSink):
    """Sink of a request whose response accepts writes without a wait."""

    __slots__ = ("_direct_request", "_key", "_writer")

    def __init__(
        self,
        request: DirectRequest,
        record: RequestRecord,
        *,
        headers: Mapping[str, str] | None = None,
        rewrite_events: Callable[[bytes], bytes] | None = None,
        keepalive: bytes = SSE_KEEPALIVE,
    ) -> None:
        super().__init__(request, record, headers=headers, rewrite_events=rewrite_events, keepalive=keepalive)
        self._direct_request = request
        self._writer: DirectWriter | None = None
        # Key of the cached head: status, content type, node, time in the queue. None before the answer.
        self._key: tuple[int, bytes, str, int] | None = None

    def start_response(self, status: int, content_type: bytes, *, node_name: str, queued_ms: int) -> None:
        self._key = (status, content_type, node_name, queued_ms)

    def write_now(self, data: bytes, /, *, last: bool = False) -> None:
        """Like `write`, without a wait."""
        if data == SSE_KEEPALIVE:
            data = self._keepalive
        elif self._rewrite_events is not None:
            data = self._rewrite_events(data)
        self._ended = last
        writer = self._writer
        if writer is None:
            record, key = self._record, self._key
            assert key is not None  # noqa: S101  # only an answer is written without a wait
            if self._ignored or record.ignored_fields or record.limit_headers or record.principal.allowances:
                writer = self._direct_request.respond_now(self._make_head())
            else:
                self._started = True
                record.status = key[0]
                if last:
                    self._direct_request.answer_alike(key, self._make_head, data)
                    return
                writer = self._direct_request.respond_alike(key, self._make_head)
            self._response = self._writer = writer
        writer.send_now(data, end_stream=last)

    def _make_head(self) -> PassthroughResponse:
        # A comment may begin the stream, while the request is queued or its model is loaded.
        if self._key is not None:
            status, content_type, node_name, queued_ms = self._key
            super().start_response(status, content_type, node_name=node_name, queued_ms=queued_ms)
        return super()._make_head()


class NdjsonSink(ResponseSink):
    """Writes a stream of SSE events as lines of JSON in Ollama's dialect."""

    __slots__ = ("_translator",)

    def __init__(
        self, request: IncomingRequest, record: RequestRecord, translator: ResponseTranslator
    ) -> None:
        super().__init__(request, record)
        self._translator = translator
        self._content_type = NDJSON_CONTENT_TYPE.decode()

    def start_response(self, status: int, content_type: bytes, *, node_name: str, queued_ms: int) -> None:
        super().start_response(status, NDJSON_CONTENT_TYPE, node_name=node_name, queued_ms=queued_ms)

    async def write(self, data: bytes, /, *, last: bool = False) -> None:
        if data == SSE_KEEPALIVE:
            await super().write(NDJSON_KEEPALIVE)
        elif lines := self._translator.feed(data):
            await super().write(lines)

    def open_pipe(self) -> ClientPipe | None:
        pipe = super().open_pipe()
        return None if pipe is None else TranslatingPipe(pipe, self._translator.feed)

    async def end(self) -> None:
        if lines := self._translator.finish():
            await super().write(lines)
        await super().end()


class BufferedSink:
    """Buffers an answer that is translated as a whole."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self._chunks: list[bytes] = []

    @property
    def started(self) -> bool:
        """Always False: the client receives the translation only."""
        return False

    @property
    def body(self) -> bytes:
        return b"".join(self._chunks)

    def start_response(self, status: int, content_type: bytes, *, node_name: str, queued_ms: int) -> None:
        self.headers = routing_headers(node_name, queued_ms)

    async def write(self, data: bytes, /, *, last: bool = False) -> None:
        self._chunks.append(data)


class ResponsesSink:
    """Completes an answer of Responses on its way to another sink; a document is held until it is whole."""

    def __init__(self, sink: ClientSink, answer: ResponsesAnswer) -> None:
        self._sink = sink
        self._answer = answer
        self._is_stream = False
        self._held: list[bytes] = []

    @property
    def started(self) -> bool:
        return self._sink.started

    def start_response(self, status: int, content_type: bytes, *, node_name: str, queued_ms: int) -> None:
        self._sink.start_response(status, content_type, node_name=node_name, queued_ms=queued_ms)
        self._is_stream = is_event_stream_type(content_type)
        self._held.clear()

    async def write(self, data: bytes, /, *, last: bool = False) -> None:
        if data == SSE_KEEPALIVE:
            await self._sink.write(data)
        elif not self._is_stream and not data.startswith(b"event: "):
            self._held.append(data)
            if last:
                await self.flush()
        elif events := self._answer.complete_events(data):
            await self._sink.write(events)

    async def flush(self) -> None:
        """Write the document that was held; idempotent."""
        if self._held:
            document, self._held = b"".join(self._held), []
            await self._sink.write(self._answer.complete_document(document), last=True)
        elif unfinished := self._answer.take_unfinished():
            await self._sink.write(unfinished)


class TranscribingSink:
    """Records the answer for `--history-text` on its way to another sink."""

    def __init__(self, sink: ClientSink, transcript: Transcript) -> None:
        self._sink = sink
        self._transcript = transcript

    @property
    def started(self) -> bool:
        return self._sink.started

    def start_response(self, status: int, content_type: bytes, *, node_name: str, queued_ms: int) -> None:
        self._sink.start_response(status, content_type, node_name=node_name, queued_ms=queued_ms)
        self._transcript.set_content_type(content_type)

    async def write(self, data: bytes, /, *, last: bool = False) -> None:
        self._transcript.feed(data)
        await self._sink.write(data, last=last)

    def open_pipe(self) -> ClientPipe | None:
        """Return a pipe that records, too."""

        def record(events: bytes) -> bytes:
            self._transcript.feed(events)
            return events

        return translate_pipe(self._sink, record)


def with_transcript(sink: ClientSink, record: RequestRecord, request_body: bytes) -> ClientSink:
    """Return `sink` with a recorder of the prompt and the answer before it, for `record`."""
    record.transcript = Transcript(extract_prompt(request_body))
    return TranscribingSink(sink, record.transcript)
