"""OpenAI's dialect: bodies pass through to the engine; only what must be checked is looked at."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import msgspec
from sanic import Blueprint, Request
from sanic.response import HTTPResponse

from llb import errors
from llb.api.access import requires
from llb.api.limits import check_limits
from llb.api.replies import decode, reply
from llb.api.requests import RequestLog
from llb.gateway.dispatch import Call, Dispatcher
from llb.gateway.history import Tally
from llb.gateway.transcript import Transcript, prompt_of
from llb.units import parse_duration
from llb.wire import InferenceHead, Model, Scope

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
SESSION_HEADER = "x-session-id"
_FORWARDED = ("content-type", "accept")


class StreamSink:
    """A Sanic response that begins with the first bytes, so that head and first chunk leave in one write."""

    def __init__(self, request: Request, tally: Tally) -> None:
        self.started = False
        self._request = request
        self._tally = tally
        self._response: HTTPResponse | None = None
        self._status = 200
        self._content_type = "text/event-stream"
        self._headers: dict[str, str] = {}

    def begin(self, status: int, content_type: bytes, *, node_name: str, queued_ms: int) -> None:
        self._status = status
        self._content_type = content_type.decode("latin-1") or "application/octet-stream"
        self._headers = {"x-llb-node": node_name, "x-llb-queue-ms": str(queued_ms)}

    async def write(self, data: bytes, /) -> None:
        if self._response is None:
            self.started = True
            self._tally.status = self._status
            self._response = cast(
                HTTPResponse,
                await self._request.respond(
                    status=self._status, headers=self._headers, content_type=self._content_type
                ),
            )
        await self._response.send(data)

    async def end(self) -> None:
        if self._response is None:
            await self.write(b"")
        assert self._response is not None  # noqa: S101  # write() made it
        await self._response.eof()  # type: ignore[no-untyped-call]


class TranscribingSink(StreamSink):
    """Reads along, for `--history-text`."""

    def __init__(self, request: Request, tally: Tally) -> None:
        super().__init__(request, tally)
        self._transcript = tally.transcript = Transcript(prompt_of(request.body))

    def begin(self, status: int, content_type: bytes, *, node_name: str, queued_ms: int) -> None:
        super().begin(status, content_type, node_name=node_name, queued_ms=queued_ms)
        self._transcript.begin(content_type)

    async def write(self, data: bytes, /) -> None:
        self._transcript.add(data)
        await super().write(data)


def openai_blueprint(dispatcher: Dispatcher, log: RequestLog) -> Blueprint:
    """`/v1` as OpenAI's clients call it."""
    blueprint = Blueprint("openai")

    @blueprint.get("/v1/models", name="models")
    @requires(Scope.INFERENCE)
    async def list_models(_request: Request) -> HTTPResponse:
        return reply(
            {"object": "list", "data": [_model_object(model) for model in dispatcher.ready_models()]}
        )

    @blueprint.get("/v1/models/<model_id:path>", name="model")
    @requires(Scope.INFERENCE)
    async def get_model(_request: Request, model_id: str) -> HTTPResponse:
        model = dispatcher.model(model_id)
        dispatcher.require_ready(model)
        return reply(_model_object(model))

    @requires(Scope.INFERENCE)
    async def infer(request: Request) -> HTTPResponse | None:
        with log.note(request) as tally:
            sink = TranscribingSink(request, tally) if log.text else StreamSink(request, tally)
            result = await dispatcher.send(_call(dispatcher, request, tally), sink)
            if result is not None and result.error is not None and not result.stream:
                # Its length was promised and cannot be kept: only a cut connection says so.
                cast(asyncio.Transport, request.transport).abort()
                return None
            await sink.end()
        return None

    for path in PATHS:
        blueprint.add_route(infer, path, methods=["POST"], name=path.removeprefix("/v1/").replace("/", "_"))
    return blueprint


def _model_object(model: Model) -> dict[str, Any]:
    return {"id": model.id, "object": "model", "created": 0, "owned_by": "llb"}


def _call(dispatcher: Dispatcher, request: Request, tally: Tally) -> Call:
    """The request as the dispatcher takes it. Raises `InvalidRequest` and what the model's state says."""
    body = request.body
    head = decode(body, InferenceHead)
    tally.asked, tally.stream = head.model, head.stream
    check_limits(head, body)
    model = dispatcher.model(head.model)
    tally.model_id = model.id
    dispatcher.require_ready(model)
    if head.model != model.id:
        # Rare, and the engine repeats the name it was called by: replies carry the catalogue's id.
        document = decode(body, dict[str, Any])
        document["model"] = model.id
        body = msgspec.json.encode(document)
    return Call(
        tally=tally,
        model=model,
        path=request.path.encode("ascii"),
        headers=[
            (name.encode("ascii"), value.encode("latin-1"))
            for name in _FORWARDED
            if (value := request.headers.get(name)) is not None
        ],
        body=body,
        head=head,
        stream=head.stream,
        key_id=request.ctx.principal.id,
        session=request.headers.get(SESSION_HEADER),
        keep_alive_s=keep_alive_s(head.keep_alive),
    )


def keep_alive_s(value: str | float | None) -> float | None:
    """What a request says of it, in seconds (negative: never unload); raises `InvalidRequest`."""
    if value is None:
        return None
    try:
        return float(value) if isinstance(value, (int, float)) else parse_duration(value)
    except ValueError as error:
        raise errors.InvalidRequest(f"keep_alive {error}", param="keep_alive") from None
