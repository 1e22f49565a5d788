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
from llb.api import shapes_ollama
from llb.api.access import requires
from llb.api.audit import AuditLog
from llb.api.blueprint import Blueprint
from llb.api.documented import Internal
from llb.api.inference import Dialect, StreamSink, keep_alive_s
from llb.api.limits import check_limits
from llb.api.ollama_models import OllamaModels
from llb.api.ollama_pull import Line, Puller
from llb.api.replies import JSON, body, decode, reply
from llb.api.requests import RequestLog
from llb.api.shapes import SESSION_HEADER
from llb.auth import allows
from llb.gateway.dispatch import Call, Dispatcher
from llb.gateway.hands import Hands
from llb.gateway.history import Tally
from llb.gateway.ollama import answered, asked
from llb.gateway.ollama.answered import Answer, Clock, Shape
from llb.gateway.ollama.asked import Question, SpokenWish, Wish
from llb.gateway.operations import OPERATIONS, require_ability
from llb.gateway.relay import HEARTBEAT
from llb.gateway.transcript import Transcript, prompt_of
from llb.wire import Capability, InferenceHead, Scope

# Whose dialect this is. Programs look at the version to learn what they may ask.
VERSION = "0.12.0"
NDJSON = b"application/x-ndjson"
BLANK = b" "  # before a line of JSON it says nothing and is no line, and a proxy sees that somebody is there
PATHS = (
    "/api/version",
    "/api/tags",
    "/api/show",
    "/api/ps",
    "/api/chat",
    "/api/generate",
    "/api/embed",
    "/api/embeddings",
)
PULL = "/api/pull"
# What else changes the models: Ollama's clients would ask it of a store that is not here.
NOT_OFFERED = (
    ("/api/create", "POST"),
    ("/api/copy", "POST"),
    ("/api/push", "POST"),
    ("/api/delete", "DELETE"),
    ("/api/blobs/<digest:str>", "HEAD"),
    ("/api/blobs/<digest:str>", "POST"),
)
ERROR_SHAPES = dict.fromkeys(
    (*PATHS, PULL, *(path.partition("<")[0] for path, _ in NOT_OFFERED)), answered.error_body
)
# curl and others call a JSON body what they like. No page gets so far: the guard looks at where a request comes from.
BODIES = (JSON, "application/x-www-form-urlencoded", "application/octet-stream", "")


class LinesSink(StreamSink):
    """Writes a stream as lines of JSON, each as soon as its event is there."""

    def __init__(self, request: Request, tally: Tally, answer: Answer) -> None:
        super().__init__(request, tally, Dialect())
        self._answer = answer
        self._content_type = NDJSON.decode()

    def begin(self, status: int, content_type: bytes, *, node_name: str, queued_ms: int) -> None:
        super().begin(status, NDJSON, node_name=node_name, queued_ms=queued_ms)
        if self._tally.transcript is not None:
            self._tally.transcript.begin(content_type)

    async def write(self, data: bytes, /, *, last: bool = False) -> None:
        if data == HEARTBEAT:
            await super().write(BLANK)
            return
        if self._tally.transcript is not None:
            self._tally.transcript.add(data)
        if lines := self._answer.feed(data):
            await super().write(lines)

    async def end(self) -> None:
        if lines := self._answer.close():
            await super().write(lines)
        await super().end()


class DocumentSink:
    """Gathers an answer that is no stream: it is translated as a whole."""

    def __init__(self, tally: Tally) -> None:
        self.started = False
        self.headers: dict[str, str] = {}
        self._tally = tally
        self._pieces: list[bytes] = []

    @property
    def body(self) -> bytes:
        return b"".join(self._pieces)

    def begin(self, status: int, content_type: bytes, *, node_name: str, queued_ms: int) -> None:
        self.headers = {"x-llb-node": node_name, "x-llb-queue-ms": str(queued_ms)}
        if self._tally.transcript is not None:
            self._tally.transcript.begin(content_type)

    async def write(self, data: bytes, /, *, last: bool = False) -> None:
        if self._tally.transcript is not None:
            self._tally.transcript.add(data)
        self._pieces.append(data)


def ollama_blueprint(
    dispatcher: Dispatcher,
    log: RequestLog,
    hands: Hands,
    models: OllamaModels,
    puller: Puller,
    audit: AuditLog,
) -> Blueprint:
    """`/api/chat` and what else Ollama's clients call."""
    blueprint = Blueprint("ollama")
    talk = Talk(dispatcher, log, hands, audit)

    @requires(Scope.INFERENCE)
    @shapes_ollama.VERSION
    async def version(_request: Request) -> HTTPResponse:
        return reply({"version": VERSION})

    @requires(Scope.INFERENCE)
    @shapes_ollama.TAGS
    async def tags(_request: Request) -> HTTPResponse:
        return reply({"models": models.tags()})

    @blueprint.get("/api/ps", name="ps")
    @requires(Scope.INFERENCE)
    @shapes_ollama.RUNNING
    async def running(_request: Request) -> HTTPResponse:
        return reply({"models": models.running()})

    @blueprint.post("/api/show", name="show")
    @requires(Scope.INFERENCE, media_types=BODIES)
    @shapes_ollama.SHOW
    async def show(request: Request) -> HTTPResponse:
        model = dispatcher.model(body(request, asked.NamedModel).asked)
        dispatcher.require_ready(model)
        return reply(await models.show(model))

    @blueprint.post("/api/chat", name="chat")
    @requires(Scope.INFERENCE, media_types=BODIES)
    @shapes_ollama.CHAT
    async def chat(request: Request) -> HTTPResponse | None:
        with log.note(request) as tally:
            wish = body(request, asked.ChatRequest)
            return await talk.speak(request, tally, wish, asked.chat(wish), Shape.CHAT)

    @blueprint.post("/api/generate", name="generate")
    @requires(Scope.INFERENCE, media_types=BODIES)
    @shapes_ollama.GENERATE
    async def generate(request: Request) -> HTTPResponse | None:
        with log.note(request) as tally:
            wish = body(request, asked.GenerateRequest)
            return await talk.speak(request, tally, wish, asked.generate(wish), Shape.GENERATE)

    @blueprint.post("/api/embed", name="embed")
    @requires(Scope.INFERENCE, media_types=BODIES)
    @shapes_ollama.EMBED
    async def embed(request: Request) -> HTTPResponse:
        with log.note(request) as tally:
            wish = body(request, asked.EmbedRequest)
            found, headers = await talk.ask(request, tally, wish, asked.embed(wish))
            return _told(tally, answered.embedded(found, wish.model, _clock(tally)), headers)

    @blueprint.post("/api/embeddings", name="embeddings")
    @requires(Scope.INFERENCE, media_types=BODIES)
    @shapes_ollama.OLD_EMBED
    async def embeddings(request: Request) -> HTTPResponse:
        with log.note(request) as tally:
            wish = body(request, asked.OldEmbedRequest)
            found, headers = await talk.ask(request, tally, wish, asked.old_embed(wish))
            return _told(tally, answered.old_embedded(found), headers)

    @blueprint.post(PULL, name="pull")
    @requires(Scope.MODELS_WRITE, media_types=BODIES)
    @shapes_ollama.PULL
    async def pull(request: Request) -> HTTPResponse | None:
        wish = body(request, asked.PullRequest)
        model = dispatcher.model(wish.asked)
        await puller.begin(request, model)
        if wish.stream is False:
            return await _last_line(puller.follow(model))
        sink = cast(HTTPResponse, await request.respond(content_type=NDJSON.decode()))
        async for line in puller.follow(model):
            await sink.send(BLANK if line is None else msgspec.json.encode(line) + b"\n")
        await sink.eof()  # type: ignore[no-untyped-call]
        return None

    @requires(Scope.INFERENCE, media_types=BODIES)
    @Internal("Ollama has them, llb has not")
    async def not_offered(_request: Request, digest: str = "") -> HTTPResponse:
        raise errors.NotOffered(
            "Models are kept in llb's Model Hub: pull or delete them on its page, import them with 'llb import'"
        )

    blueprint.add_route(version, "/api/version", methods=["GET", "HEAD"], name="version")
    blueprint.add_route(tags, "/api/tags", methods=["GET", "HEAD"], name="tags")
    for number, (path, method) in enumerate(NOT_OFFERED):
        blueprint.add_route(not_offered, path, methods=[method], name=f"not_offered_{number}")
    return blueprint


def running_blueprint() -> Blueprint:
    """`/` of Ollama's own port, by which programs find it."""
    blueprint = Blueprint("running")

    @requires(Scope.INFERENCE)
    @Internal("by which programs find Ollama's port")
    async def running(_request: Request) -> HTTPResponse:
        return text("Ollama is running")

    blueprint.add_route(running, "/", methods=["GET", "HEAD"])
    return blueprint


class Talk:
    """One request of this dialect on its way through the dispatcher."""

    def __init__(self, dispatcher: Dispatcher, log: RequestLog, hands: Hands, audit: AuditLog) -> None:
        self._dispatcher = dispatcher
        self._log = log
        self._hands = hands
        self._audit = audit

    async def speak(
        self, request: Request, tally: Tally, wish: SpokenWish, question: Question | None, shape: Shape
    ) -> HTTPResponse | None:
        """Answer in words; without a question the model is loaded or, kept alive for no time, unloaded."""
        answer = Answer(wish.model, shape, _clock(tally))
        if question is None:
            if keep_alive_s(wish.keep_alive) == 0:
                await self._unload(request, tally, wish)
                return _told(tally, answer.done("unload"))
            model = self._dispatcher.model(wish.model)
            question = asked.load(embeds=Capability.EMBEDDING in model.capabilities)
            _, headers = await self.ask(request, tally, wish, question)
            return _told(tally, answer.done("load"), headers)
        if not wish.streams:
            found, headers = await self.ask(request, tally, wish, question)
            return _told(tally, answer.document(found), headers)
        tally.stream = True
        call = self._call(request, tally, wish, question)
        sink = LinesSink(request, tally, answer)
        await self._dispatcher.send(call, sink)
        await sink.end()
        return None

    async def ask(
        self, request: Request, tally: Tally, wish: Wish, question: Question
    ) -> tuple[bytes, dict[str, str]]:
        """The whole answer of an engine, and the headers that say where it is from."""
        call = self._call(request, tally, wish, question)
        sink = DocumentSink(tally)
        result = await self._dispatcher.send(call, sink)
        if result is not None and result.error is not None:
            raise result.error  # the client has nothing of it yet
        return sink.body, sink.headers

    async def _unload(self, request: Request, tally: Tally, wish: Wish) -> None:
        if not allows(request.ctx.principal, Scope.MODELS_WRITE):
            raise errors.PermissionDenied(
                f"To unload a model the scope '{Scope.MODELS_WRITE.value}' is needed"
            )
        tally.asked = wish.model
        model = self._dispatcher.model(wish.model)
        tally.model_id = model.id
        async with self._audit.act(request, "model.unload", model.id):
            await self._hands.unload(model.id)

    def _call(self, request: Request, tally: Tally, wish: Wish, question: Question) -> Call:
        """The question as the dispatcher takes it. Raises `InvalidRequest` and what the model's state says."""
        tally.asked = wish.model
        if not wish.model:
            raise errors.InvalidRequest("model is required", param="model")
        model = self._dispatcher.model(wish.model)
        tally.model_id = model.id
        operation = OPERATIONS[question.path]
        require_ability(model, operation)
        translated = question.body(model.id)
        head = decode(translated, InferenceHead)
        check_limits(head, translated)
        self._dispatcher.require_ready(model)
        if self._log.text:
            tally.transcript = Transcript(prompt_of(translated))
        return Call(
            tally=tally,
            model=model,
            path=question.path.encode("ascii"),
            body=translated,
            head=head,
            operation=operation,
            stream=head.stream,
            key_id=request.ctx.principal.id,
            session=request.headers.get(SESSION_HEADER),
            keep_alive_s=keep_alive_s(wish.keep_alive),
        )


async def _last_line(lines: AsyncIterator[Line | None]) -> HTTPResponse:
    """Raises `ModelFailed` where it says that it did not end well."""
    last: Line = {}
    async for line in lines:
        last = line or last
    if "error" in last:
        raise errors.ModelFailed(str(last["error"]))
    return reply(last)


def _clock(tally: Tally) -> Clock:
    return Clock(_now, _since(tally), lambda: tally.loaded_s)


def _now() -> datetime:
    return datetime.now(UTC)


def _since(tally: Tally) -> Callable[[], float]:
    return lambda: time.monotonic() - tally.began_at


def _told(tally: Tally, document: bytes, headers: dict[str, str] | None = None) -> HTTPResponse:
    tally.status = 200
    return HTTPResponse(document, headers=headers, content_type=JSON)
