"""Ollama's dialect: requests become OpenAI's, go the way of all others, and their answers are translated as they come."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import cast

import msgspec
from sanic import Request
from sanic.response import HTTPResponse, text

from llb import errors
from llb.api.audit_log import AuditLog
from llb.api.blueprint import Blueprint
from llb.api.inference.handler import DialectHooks, ResponseSink, parse_keep_alive
from llb.api.inference.ollama_models import OllamaModels
from llb.api.inference.ollama_pull import PullFollower, PullStatus
from llb.api.inference.request_validation import validate_request
from llb.api.middleware.route_policy import requires_scope
from llb.api.reference.operation import InternalRoute
from llb.api.reference.schemas import ollama as schemas
from llb.api.reference.schemas.common import SESSION_HEADER
from llb.api.request_body import decode_json, parse_body
from llb.api.request_recorder import RequestRecorder
from llb.api.responses import JSON, json_response
from llb.gateway.dialects import ollama_request, ollama_response
from llb.gateway.dialects.ollama_request import EngineRequest, ModelRequest, TextRequest
from llb.gateway.dialects.ollama_response import RequestClock, ResponseShape, ResponseTranslator
from llb.gateway.dispatcher import Dispatcher
from llb.gateway.engine_routes import OPERATION_OF_PATH, require_capability
from llb.gateway.inference_call import InferenceCall
from llb.gateway.nodes.node_commands import NodeCommands
from llb.gateway.observability.request_log import RequestRecord
from llb.gateway.stream.sse import SSE_KEEPALIVE
from llb.gateway.stream.transcript import Transcript, extract_prompt
from llb.security.permissions import has_scope
from llb.wire import Capability, InferenceFields, Scope

# Whose dialect this is. Programs look at the version to learn what they may ask.
OLLAMA_VERSION = "0.12.0"
NDJSON_CONTENT_TYPE = b"application/x-ndjson"
NDJSON_KEEPALIVE = (
    b" "  # before a line of JSON it says nothing and is no line, and a proxy sees that somebody is there
)
OLLAMA_PATHS = (
    "/api/version",
    "/api/tags",
    "/api/show",
    "/api/ps",
    "/api/chat",
    "/api/generate",
    "/api/embed",
    "/api/embeddings",
)
PULL_PATH = "/api/pull"
# What else changes the models: Ollama's clients would ask it of a store that is not here.
UNSUPPORTED_ROUTES = (
    ("/api/create", "POST"),
    ("/api/copy", "POST"),
    ("/api/push", "POST"),
    ("/api/delete", "DELETE"),
    ("/api/blobs/<digest:str>", "HEAD"),
    ("/api/blobs/<digest:str>", "POST"),
)
ERROR_BODY_BUILDERS = dict.fromkeys(
    (*OLLAMA_PATHS, PULL_PATH, *(path.partition("<")[0] for path, _ in UNSUPPORTED_ROUTES)),
    ollama_response.error_body,
)
# curl and others call a JSON body what they like. No page gets so far: the guard looks at where a request comes from.
JSON_LIKE_MEDIA_TYPES = (JSON, "application/x-www-form-urlencoded", "application/octet-stream", "")


class NdjsonSink(ResponseSink):
    """Writes a stream as lines of JSON, each as soon as its event is there."""

    def __init__(self, request: Request, record: RequestRecord, translator: ResponseTranslator) -> None:
        super().__init__(request, record, DialectHooks())
        self._translator = translator
        self._content_type = NDJSON_CONTENT_TYPE.decode()

    def start_response(self, status: int, content_type: bytes, *, node_name: str, queued_ms: int) -> None:
        super().start_response(status, NDJSON_CONTENT_TYPE, node_name=node_name, queued_ms=queued_ms)
        if self._record.transcript is not None:
            self._record.transcript.set_content_type(content_type)

    async def write(self, data: bytes, /, *, last: bool = False) -> None:
        if data == SSE_KEEPALIVE:
            await super().write(NDJSON_KEEPALIVE)
            return
        if self._record.transcript is not None:
            self._record.transcript.feed(data)
        if lines := self._translator.feed(data):
            await super().write(lines)

    async def end(self) -> None:
        if lines := self._translator.finish():
            await super().write(lines)
        await super().end()


class BufferedSink:
    """Gathers an answer that is no stream: it is translated as a whole."""

    def __init__(self, record: RequestRecord) -> None:
        self.started = False
        self.headers: dict[str, str] = {}
        self._record = record
        self._chunks: list[bytes] = []

    @property
    def body(self) -> bytes:
        return b"".join(self._chunks)

    def start_response(self, status: int, content_type: bytes, *, node_name: str, queued_ms: int) -> None:
        self.headers = {"x-llb-node": node_name, "x-llb-queue-ms": str(queued_ms)}
        if self._record.transcript is not None:
            self._record.transcript.set_content_type(content_type)

    async def write(self, data: bytes, /, *, last: bool = False) -> None:
        if self._record.transcript is not None:
            self._record.transcript.feed(data)
        self._chunks.append(data)


def ollama_blueprint(
    dispatcher: Dispatcher,
    recorder: RequestRecorder,
    node_commands: NodeCommands,
    models: OllamaModels,
    pull_follower: PullFollower,
    audit_log: AuditLog,
) -> Blueprint:
    """`/api/chat` and what else Ollama's clients call."""
    blueprint = Blueprint("ollama")
    talk = OllamaHandler(dispatcher, recorder, node_commands, audit_log)

    @requires_scope(Scope.INFERENCE)
    @schemas.VERSION_OPERATION
    async def version(_request: Request) -> HTTPResponse:
        return json_response({"version": OLLAMA_VERSION})

    @requires_scope(Scope.INFERENCE)
    @schemas.TAGS_OPERATION
    async def tags(_request: Request) -> HTTPResponse:
        return json_response({"models": models.list_ready()})

    @blueprint.get("/api/ps", name="ps")
    @requires_scope(Scope.INFERENCE)
    @schemas.RUNNING_OPERATION
    async def running(_request: Request) -> HTTPResponse:
        return json_response({"models": models.list_loaded()})

    @blueprint.post("/api/show", name="show")
    @requires_scope(Scope.INFERENCE, media_types=JSON_LIKE_MEDIA_TYPES)
    @schemas.SHOW_OPERATION
    async def show(request: Request) -> HTTPResponse:
        model = dispatcher.readiness.resolve_model(
            parse_body(request, ollama_request.NamedModel).requested_model
        )
        dispatcher.readiness.require_ready(model)
        return json_response(await models.show(model))

    @blueprint.post("/api/chat", name="chat")
    @requires_scope(Scope.INFERENCE, media_types=JSON_LIKE_MEDIA_TYPES)
    @schemas.CHAT_OPERATION
    async def chat(request: Request) -> HTTPResponse | None:
        with recorder.record(request) as tally:
            wish = parse_body(request, ollama_request.ChatRequest)
            return await talk.respond(
                request, tally, wish, ollama_request.translate_chat(wish), ResponseShape.CHAT
            )

    @blueprint.post("/api/generate", name="generate")
    @requires_scope(Scope.INFERENCE, media_types=JSON_LIKE_MEDIA_TYPES)
    @schemas.GENERATE_OPERATION
    async def generate(request: Request) -> HTTPResponse | None:
        with recorder.record(request) as tally:
            wish = parse_body(request, ollama_request.GenerateRequest)
            return await talk.respond(
                request, tally, wish, ollama_request.translate_generate(wish), ResponseShape.GENERATE
            )

    @blueprint.post("/api/embed", name="embed")
    @requires_scope(Scope.INFERENCE, media_types=JSON_LIKE_MEDIA_TYPES)
    @schemas.EMBED_OPERATION
    async def embed(request: Request) -> HTTPResponse:
        with recorder.record(request) as tally:
            wish = parse_body(request, ollama_request.EmbedRequest)
            found, headers = await talk.complete(request, tally, wish, ollama_request.translate_embed(wish))
            return _ok_response(
                tally, ollama_response.translate_embeddings(found, wish.model, _request_clock(tally)), headers
            )

    @blueprint.post("/api/embeddings", name="embeddings")
    @requires_scope(Scope.INFERENCE, media_types=JSON_LIKE_MEDIA_TYPES)
    @schemas.LEGACY_EMBED_OPERATION
    async def embeddings(request: Request) -> HTTPResponse:
        with recorder.record(request) as tally:
            wish = parse_body(request, ollama_request.OldEmbedRequest)
            found, headers = await talk.complete(
                request, tally, wish, ollama_request.translate_legacy_embed(wish)
            )
            return _ok_response(tally, ollama_response.translate_legacy_embedding(found), headers)

    @blueprint.post(PULL_PATH, name="pull")
    @requires_scope(Scope.MODELS_WRITE, media_types=JSON_LIKE_MEDIA_TYPES)
    @schemas.PULL_OPERATION
    async def pull(request: Request) -> HTTPResponse | None:
        wish = parse_body(request, ollama_request.PullRequest)
        model = dispatcher.readiness.resolve_model(wish.requested_model)
        await pull_follower.start_pull(request, model)
        if wish.stream is False:
            return await _final_pull_response(pull_follower.follow(model))
        sink = cast(HTTPResponse, await request.respond(content_type=NDJSON_CONTENT_TYPE.decode()))
        async for line in pull_follower.follow(model):
            await sink.send(NDJSON_KEEPALIVE if line is None else msgspec.json.encode(line) + b"\n")
        await sink.eof()  # type: ignore[no-untyped-call]
        return None

    @requires_scope(Scope.INFERENCE, media_types=JSON_LIKE_MEDIA_TYPES)
    @InternalRoute("Ollama has them, llb has not")
    async def not_offered(_request: Request, digest: str = "") -> HTTPResponse:
        raise errors.UnsupportedOperation(
            "Models are kept in llb's Model Hub: pull or delete them on its page, import them with 'llb import'"
        )

    blueprint.add_route(version, "/api/version", methods=["GET", "HEAD"], name="version")
    blueprint.add_route(tags, "/api/tags", methods=["GET", "HEAD"], name="tags")
    for number, (path, method) in enumerate(UNSUPPORTED_ROUTES):
        blueprint.add_route(not_offered, path, methods=[method], name=f"not_offered_{number}")
    return blueprint


def ollama_root_blueprint() -> Blueprint:
    """`/` of Ollama's own port, by which programs find it."""
    blueprint = Blueprint("running")

    @requires_scope(Scope.INFERENCE)
    @InternalRoute("by which programs find Ollama's port")
    async def running(_request: Request) -> HTTPResponse:
        return text("Ollama is running")

    blueprint.add_route(running, "/", methods=["GET", "HEAD"])
    return blueprint


class OllamaHandler:
    """One request of this dialect on its way through the dispatcher."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        recorder: RequestRecorder,
        node_commands: NodeCommands,
        audit_log: AuditLog,
    ) -> None:
        self._dispatcher = dispatcher
        self._recorder = recorder
        self._node_commands = node_commands
        self._audit_log = audit_log

    async def respond(
        self,
        request: Request,
        record: RequestRecord,
        body: TextRequest,
        engine_request: EngineRequest | None,
        shape: ResponseShape,
    ) -> HTTPResponse | None:
        """Answer in words; without a question the model is loaded or, kept alive for no time, unloaded."""
        answer = ResponseTranslator(body.model, shape, _request_clock(record))
        if engine_request is None:
            if parse_keep_alive(body.keep_alive) == 0:
                await self._unload(request, record, body)
                return _ok_response(record, answer.translate_empty("unload"))
            model = self._dispatcher.readiness.resolve_model(body.model)
            engine_request = ollama_request.build_load_request(
                is_embedding=Capability.EMBEDDING in model.capabilities
            )
            _, headers = await self.complete(request, record, body, engine_request)
            return _ok_response(record, answer.translate_empty("load"), headers)
        if not body.wants_stream:
            found, headers = await self.complete(request, record, body, engine_request)
            return _ok_response(record, answer.translate_document(found), headers)
        record.stream = True
        call = self._build_call(request, record, body, engine_request)
        sink = NdjsonSink(request, record, answer)
        await self._dispatcher.dispatch(call, sink)
        await sink.end()
        return None

    async def complete(
        self,
        request: Request,
        record: RequestRecord,
        body: ModelRequest,
        engine_request: EngineRequest,
    ) -> tuple[bytes, dict[str, str]]:
        """The whole answer of an engine, and the headers that say where it is from."""
        call = self._build_call(request, record, body, engine_request)
        sink = BufferedSink(record)
        result = await self._dispatcher.dispatch(call, sink)
        if result is not None and result.error is not None:
            raise result.error  # the client has nothing of it yet
        return sink.body, sink.headers

    async def _unload(self, request: Request, record: RequestRecord, body: ModelRequest) -> None:
        if not has_scope(request.ctx.principal, Scope.MODELS_WRITE):
            raise errors.PermissionDenied(
                f"To unload a model the scope '{Scope.MODELS_WRITE.value}' is needed"
            )
        record.requested_model = body.model
        model = self._dispatcher.readiness.resolve_model(body.model)
        record.model_id = model.id
        async with self._audit_log.recording(request, "model.unload", model.id):
            await self._node_commands.unload(model.id)

    def _build_call(
        self,
        request: Request,
        record: RequestRecord,
        body: ModelRequest,
        engine_request: EngineRequest,
    ) -> InferenceCall:
        """The question as the dispatcher takes it. Raises `InvalidRequest` and what the model's state says."""
        record.requested_model = body.model
        if not body.model:
            raise errors.InvalidRequest("model is required", param="model")
        model = self._dispatcher.readiness.resolve_model(body.model)
        record.model_id = model.id
        operation = OPERATION_OF_PATH[engine_request.path]
        require_capability(model, operation)
        translated = engine_request.encode_body(model.id)
        head = decode_json(translated, InferenceFields)
        validate_request(head, translated)
        self._dispatcher.readiness.require_ready(model)
        if self._recorder.keeps_text:
            record.transcript = Transcript(extract_prompt(translated))
        return InferenceCall(
            record=record,
            model=model,
            path=engine_request.path.encode("ascii"),
            body=translated,
            head=head,
            operation=operation,
            stream=head.stream,
            key_id=request.ctx.principal.id,
            session=request.headers.get(SESSION_HEADER),
            keep_alive_s=parse_keep_alive(body.keep_alive),
        )


async def _final_pull_response(lines: AsyncIterator[PullStatus | None]) -> HTTPResponse:
    """Raises `ModelFailed` where it says that it did not end well."""
    last: PullStatus = {}
    async for line in lines:
        last = line or last
    if "error" in last:
        raise errors.ModelFailed(str(last["error"]))
    return json_response(last)


def _request_clock(record: RequestRecord) -> RequestClock:
    return RequestClock(_utc_now, _elapsed_timer(record), lambda: record.load_s)


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _elapsed_timer(record: RequestRecord) -> Callable[[], float]:
    return lambda: time.monotonic() - record.started_at


def _ok_response(
    record: RequestRecord, document: bytes, headers: dict[str, str] | None = None
) -> HTTPResponse:
    record.status = 200
    return HTTPResponse(document, headers=headers, content_type=JSON)
