"""How every dialect has a request answered: its body passes through to the engine, only what must be checked is looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import msgspec
from sanic import Request
from sanic.http import Http
from sanic.response import HTTPResponse

from llb import errors
from llb.api.limits import check_limits
from llb.api.replies import Passed, decode, status_of
from llb.api.requests import RequestLog
from llb.api.shapes import SESSION_HEADER
from llb.gateway.dispatch import Call, Dispatcher
from llb.gateway.history import Tally
from llb.gateway.operations import OPERATIONS, require_ability
from llb.gateway.relay import error_event
from llb.gateway.transcript import Transcript, prompt_of
from llb.units import parse_duration
from llb.wire import InferenceHead

ErrorEvent = Callable[[errors.LlbError], bytes]


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """What one request needs beside what all have in common."""

    error_event: ErrorEvent = error_event  # an error inside a stream
    status_of: Callable[[errors.LlbError], int] = status_of  # of an answer that is an error
    headers: Mapping[str, str] | None = None  # of the answer
    amend: Callable[[InferenceHead], Mapping[str, Any]] | None = None  # what the body lacks for the engine
    retouch: Callable[[bytes], bytes] | None = None  # the engine's words, some whole events at a time


class StreamSink:
    """A Sanic response that begins with the first bytes, so that head and first chunk leave in one write; with all of it, if
    the first bytes are the last."""

    def __init__(self, request: Request, tally: Tally, dialect: Dialect) -> None:
        self.started = False
        self._request = request
        self._tally = tally
        self._retouch = dialect.retouch
        self._response: HTTPResponse | None = None
        # Of a stream that has begun: what Sanic's layers would do to a piece is two coroutines for one line.
        self._pipe: Callable[[bytes], Awaitable[None]] | None = None
        self._ended = False
        self._status = 200
        self._content_type = "text/event-stream"
        self._headers = {**(dialect.headers or {})}

    def begin(self, status: int, content_type: bytes, *, node_name: str, queued_ms: int) -> None:
        self._status = status
        self._content_type = content_type.decode("latin-1") or "application/octet-stream"
        self._headers |= {"x-llb-node": node_name, "x-llb-queue-ms": str(queued_ms)}

    async def write(self, data: bytes, /, *, last: bool = False) -> None:
        if self._retouch is not None:
            data = self._retouch(data)
        if self._pipe is not None and not last:
            if data:  # an empty chunk would be the end
                await self._pipe(b"%x\r\n%b\r\n" % (len(data), data))
            return
        response = self._response or await self._respond()
        self._ended = last
        await response.send(data, end_stream=last)
        stream = self._request.stream
        if isinstance(stream, Http) and stream.response_func == stream.http1_response_chunked:
            self._pipe = stream.protocol.send

    async def end(self) -> None:
        if not self._ended:
            response = self._response or await self._respond()
            await response.eof()  # type: ignore[no-untyped-call]

    async def _respond(self) -> HTTPResponse:
        self.started = True
        self._tally.status = self._status
        answer = Passed(status=self._status, headers=self._headers, content_type=self._content_type)
        self._response = cast(HTTPResponse, await self._request.respond(answer))
        return self._response


class TranscribingSink(StreamSink):
    """Reads along, for `--history-text`."""

    def __init__(self, request: Request, tally: Tally, dialect: Dialect) -> None:
        super().__init__(request, tally, dialect)
        self._transcript = tally.transcript = Transcript(prompt_of(request.body))

    def begin(self, status: int, content_type: bytes, *, node_name: str, queued_ms: int) -> None:
        super().begin(status, content_type, node_name=node_name, queued_ms=queued_ms)
        self._transcript.begin(content_type)

    async def write(self, data: bytes, /, *, last: bool = False) -> None:
        self._transcript.add(data)
        await super().write(data, last=last)


class Inference:
    """Answers the requests that llama-server itself understands."""

    def __init__(self, dispatcher: Dispatcher, log: RequestLog) -> None:
        self.dispatcher = dispatcher
        self._log = log

    async def answer(self, request: Request, dialect: Dialect) -> None:
        """Have `request` answered. Raises `LlbError` while the client has got nothing."""
        with self._log.note(request, dialect.status_of) as tally:
            sink = (TranscribingSink if self._log.text else StreamSink)(request, tally, dialect)
            call = _call(self.dispatcher, request, tally, dialect)
            result = await self.dispatcher.send(call, sink)
            if result is not None and result.error is not None and not result.stream:
                # Its length was promised and cannot be kept: only a cut connection says so.
                cast(asyncio.Transport, request.transport).abort()
                return
            await sink.end()


def _call(dispatcher: Dispatcher, request: Request, tally: Tally, dialect: Dialect) -> Call:
    """The request as the dispatcher takes it. Raises `InvalidRequest` and what the model's state says."""
    body = request.body
    assert request.route is not None  # noqa: S101  # it is being handled
    path = f"/{request.route.path}"
    operation = OPERATIONS[path]
    head = decode(body, InferenceHead)
    tally.asked, tally.stream = head.model, head.stream and operation.writes
    check_limits(head, body)
    model = dispatcher.model(head.model)
    tally.model_id = model.id
    require_ability(model, operation)
    dispatcher.require_ready(model)
    added = dialect.amend(head) if dialect.amend is not None else {}
    if head.model != model.id or added:
        # Rare. The engine repeats the name it was called by: replies carry the catalogue's id.
        document = {**added, **decode(body, dict[str, Any]), "model": model.id}
        body = msgspec.json.encode(document)
    return Call(
        tally=tally,
        model=model,
        path=path.encode("ascii"),
        body=body,
        head=head,
        operation=operation,
        stream=tally.stream,
        key_id=request.ctx.principal.id,
        session=request.headers.get(SESSION_HEADER) or head.prompt_cache_key,
        keep_alive_s=keep_alive_s(head.keep_alive),
        error_event=dialect.error_event,
    )


def keep_alive_s(value: str | float | None) -> float | None:
    """What a request says of it, in seconds (negative: never unload); raises `InvalidRequest`."""
    if value is None:
        return None
    try:
        return float(value) if isinstance(value, (int, float)) else parse_duration(value)
    except ValueError as error:
        raise errors.InvalidRequest(f"keep_alive {error}", param="keep_alive") from None
