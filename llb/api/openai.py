"""OpenAI's dialect: bodies pass through to the engine; only what must be checked is looked at."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import msgspec
from sanic import Blueprint, Request
from sanic.response import HTTPResponse

from llb import errors
from llb.api.access import requires
from llb.api.documented import Documented
from llb.api.limits import check_limits
from llb.api.replies import decode, reply
from llb.api.requests import RequestLog
from llb.api.shapes import INFERENCE, OF_READINESS, SESSION_HEADER
from llb.gateway.dispatch import Call, Dispatcher
from llb.gateway.history import Tally
from llb.gateway.transcript import Transcript, prompt_of
from llb.units import parse_duration
from llb.wire import InferenceHead, ModelObject, ModelObjects, Scope

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
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
    @Documented("List the Ready models", reply=ModelObjects)
    async def list_models(_request: Request) -> HTTPResponse:
        ready = dispatcher.ready_models()
        return reply(ModelObjects(data=tuple(ModelObject(id=model.id) for model in ready)))

    @blueprint.get("/v1/models/<model_id:path>", name="model")
    @requires(Scope.INFERENCE)
    @Documented("Show a Ready model", reply=ModelObject, errors=OF_READINESS)
    async def get_model(_request: Request, model_id: str) -> HTTPResponse:
        model = dispatcher.model(model_id)
        dispatcher.require_ready(model)
        return reply(ModelObject(id=model.id))

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
        name = path.removeprefix("/v1/").replace("/", "_")
        blueprint.add_route(infer, path, methods=["POST"], name=name, ctx_documented=INFERENCE[path])
    return blueprint


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
        keep_alive_s=_keep_alive_s(head.keep_alive),
    )


def _keep_alive_s(value: str | float | None) -> float | None:
    if value is None:
        return None
    try:
        return float(value) if isinstance(value, (int, float)) else parse_duration(value)
    except ValueError as error:
        raise errors.InvalidRequest(f"keep_alive {error}", param="keep_alive") from None
