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
from llb.api.error_mapping import http_status_of
from llb.api.inference.request_validation import validate_request
from llb.api.reference.schemas.common import SESSION_HEADER
from llb.api.request_body import decode_json
from llb.api.request_recorder import RequestRecorder
from llb.api.responses import PassthroughResponse
from llb.base.units import parse_duration
from llb.gateway.dispatcher import Dispatcher
from llb.gateway.engine_routes import OPERATION_OF_PATH, require_capability
from llb.gateway.inference_call import InferenceCall
from llb.gateway.observability.request_log import RequestRecord
from llb.gateway.stream.sse import format_error_event
from llb.gateway.stream.transcript import Transcript, extract_prompt
from llb.wire import InferenceFields

ErrorEventBuilder = Callable[[errors.LlbError], bytes]


@dataclass(frozen=True, kw_only=True)
class DialectHooks:
    """What one request needs beside what all have in common."""

    format_error_event: ErrorEventBuilder = format_error_event  # an error inside a stream
    http_status_of: Callable[[errors.LlbError], int] = http_status_of  # of an answer that is an error
    response_headers: Mapping[str, str] | None = None  # of the answer
    extra_fields: Callable[[InferenceFields], Mapping[str, Any]] | None = (
        None  # what the body lacks for the engine
    )
    rewrite_events: Callable[[bytes], bytes] | None = None  # the engine's words, some whole events at a time


class ResponseSink:
    """A Sanic response that begins with the first bytes, so that head and first chunk leave in one write; with all of it, if
    the first bytes are the last."""

    def __init__(self, request: Request, record: RequestRecord, hooks: DialectHooks) -> None:
        self.started = False
        self._request = request
        self._record = record
        self._rewrite_events = hooks.rewrite_events
        self._response: HTTPResponse | None = None
        # Of a stream that has begun: what Sanic's layers would do to a piece is two coroutines for one line.
        self._send_raw: Callable[[bytes], Awaitable[None]] | None = None
        self._ended = False
        self._status = 200
        self._content_type = "text/event-stream"
        self._headers = {**(hooks.response_headers or {})}

    def start_response(self, status: int, content_type: bytes, *, node_name: str, queued_ms: int) -> None:
        self._status = status
        self._content_type = content_type.decode("latin-1") or "application/octet-stream"
        self._headers |= {"x-llb-node": node_name, "x-llb-queue-ms": str(queued_ms)}

    async def write(self, data: bytes, /, *, last: bool = False) -> None:
        if self._rewrite_events is not None:
            data = self._rewrite_events(data)
        if self._send_raw is not None and not last:
            if data:  # an empty chunk would be the end
                await self._send_raw(b"%x\r\n%b\r\n" % (len(data), data))
            return
        response = self._response or await self._start_response()
        self._ended = last
        await response.send(data, end_stream=last)
        stream = self._request.stream
        if isinstance(stream, Http) and stream.response_func == stream.http1_response_chunked:
            self._send_raw = stream.protocol.send

    async def end(self) -> None:
        if not self._ended:
            response = self._response or await self._start_response()
            await response.eof()  # type: ignore[no-untyped-call]

    async def _start_response(self) -> HTTPResponse:
        self.started = True
        self._record.status = self._status
        answer = PassthroughResponse(
            status=self._status, headers=self._headers, content_type=self._content_type
        )
        self._response = cast(HTTPResponse, await self._request.respond(answer))
        return self._response


class TranscribingSink(ResponseSink):
    """Reads along, for `--history-text`."""

    def __init__(self, request: Request, record: RequestRecord, hooks: DialectHooks) -> None:
        super().__init__(request, record, hooks)
        self._transcript = record.transcript = Transcript(extract_prompt(request.body))

    def start_response(self, status: int, content_type: bytes, *, node_name: str, queued_ms: int) -> None:
        super().start_response(status, content_type, node_name=node_name, queued_ms=queued_ms)
        self._transcript.set_content_type(content_type)

    async def write(self, data: bytes, /, *, last: bool = False) -> None:
        self._transcript.feed(data)
        await super().write(data, last=last)


class InferenceHandler:
    """Answers the requests that llama-server itself understands."""

    def __init__(self, dispatcher: Dispatcher, recorder: RequestRecorder) -> None:
        self.dispatcher = dispatcher
        self._recorder = recorder

    async def handle(self, request: Request, hooks: DialectHooks) -> None:
        """Have `request` answered. Raises `LlbError` while the client has got nothing."""
        with self._recorder.record(request, hooks.http_status_of) as tally:
            sink = (TranscribingSink if self._recorder.keeps_text else ResponseSink)(request, tally, hooks)
            call = _build_call(self.dispatcher, request, tally, hooks)
            result = await self.dispatcher.dispatch(call, sink)
            if result is not None and result.error is not None and not result.stream:
                # Its length was promised and cannot be kept: only a cut connection says so.
                cast(asyncio.Transport, request.transport).abort()
                return
            await sink.end()


def _build_call(
    dispatcher: Dispatcher, request: Request, record: RequestRecord, hooks: DialectHooks
) -> InferenceCall:
    """The request as the dispatcher takes it. Raises `InvalidRequest` and what the model's state says."""
    body = request.body
    assert request.route is not None  # noqa: S101  # it is being handled
    path = f"/{request.route.path}"
    operation = OPERATION_OF_PATH[path]
    head = decode_json(body, InferenceFields)
    record.requested_model, record.stream = head.model, head.stream and operation.generates_text
    validate_request(head, body)
    model = dispatcher.readiness.resolve_model(head.model)
    record.model_id = model.id
    require_capability(model, operation)
    dispatcher.readiness.require_ready(model)
    added = hooks.extra_fields(head) if hooks.extra_fields is not None else {}
    if head.model != model.id or added:
        # Rare. The engine repeats the name it was called by: replies carry the catalogue's id.
        document = {**added, **decode_json(body, dict[str, Any]), "model": model.id}
        body = msgspec.json.encode(document)
    return InferenceCall(
        record=record,
        model=model,
        path=path.encode("ascii"),
        body=body,
        head=head,
        operation=operation,
        stream=record.stream,
        key_id=request.ctx.principal.id,
        session=request.headers.get(SESSION_HEADER) or head.prompt_cache_key,
        keep_alive_s=parse_keep_alive(head.keep_alive),
        format_error_event=hooks.format_error_event,
    )


def parse_keep_alive(value: str | float | None) -> float | None:
    """What a request says of it, in seconds (negative: never unload); raises `InvalidRequest`."""
    if value is None:
        return None
    try:
        return float(value) if isinstance(value, (int, float)) else parse_duration(value)
    except ValueError as error:
        raise errors.InvalidRequest(f"keep_alive {error}", param="keep_alive") from None
