"""Ollama handler: translates requests to OpenAI's dialect, dispatches them and translates the answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

from sanic.response import HTTPResponse

from llb import errors
from llb.api.audit_log import AuditLog
from llb.api.incoming_request import IncomingRequest
from llb.api.inference.body_size import repair_body
from llb.api.inference.call_builder import build_call, parse_keep_alive
from llb.api.inference.client_sinks import BufferedSink, NdjsonSink, ignored_headers, with_transcript
from llb.api.request_body import LargeBodyWorker, parse_body
from llb.api.request_recorder import RequestRecorder
from llb.api.responses import JSON
from llb.gateway.dialects import ollama_request, ollama_response
from llb.gateway.dialects.ollama_request import (
    EmbedRequest,
    EngineRequest,
    ModelRequest,
    OldEmbedRequest,
    TextRequest,
)
from llb.gateway.dialects.ollama_response import RequestClock, ResponseShape, ResponseTranslator
from llb.gateway.dispatcher import Dispatcher
from llb.gateway.inference_call import ClientSink, InferenceCall
from llb.gateway.nodes.node_commands import NodeCommands
from llb.gateway.observability.request_log import RequestRecord
from llb.security.permissions import has_scope
from llb.wire import Capability, Scope

T = TypeVar("T")
R = TypeVar("R")


class OllamaHandler:
    """Answers the requests that run a model, load it or unload it."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        recorder: RequestRecorder,
        node_commands: NodeCommands,
        audit_log: AuditLog,
        worker: LargeBodyWorker,
    ) -> None:
        self._worker = worker
        self._dispatcher = dispatcher
        self._recorder = recorder
        self._node_commands = node_commands
        self._audit_log = audit_log

    async def parse(
        self, request: IncomingRequest, body_type: type[T], translate: Callable[[T], R]
    ) -> tuple[T, R]:
        """Return the body of `request` and its translation; raises `InvalidRequest`."""

        def parse_and_translate() -> tuple[T, R]:
            request.body = repair_body(request.body)
            body = parse_body(request, body_type)
            return body, translate(body)

        return await self._worker.run(len(request.body), parse_and_translate)

    async def generate(
        self,
        request: IncomingRequest,
        record: RequestRecord,
        body: TextRequest,
        engine_request: EngineRequest | None,
        shape: ResponseShape,
    ) -> HTTPResponse | None:
        """Generate an answer; without a prompt (`engine_request` None), load or unload the model.

        Returns None for a response that has been streamed.
        """
        translator = ResponseTranslator(body.model, shape, _request_clock(record))
        if engine_request is None:
            headers = await self._prepare_model(request, record, body)
            reason = "unload" if parse_keep_alive(body.keep_alive) == 0 else "load"
            return _ok_response(record, translator.translate_empty(reason), headers)
        if body.wants_stream:
            await self._stream(request, record, body, engine_request, translator)
            return None
        answer, headers = await self._complete(request, record, body, engine_request)
        return _ok_response(record, translator.translate_document(answer), headers)

    async def embed(
        self,
        request: IncomingRequest,
        record: RequestRecord,
        body: EmbedRequest,
        engine_request: EngineRequest | None,
    ) -> HTTPResponse:
        """Embed one or more texts."""
        answer, headers = await self._compute_vectors(request, record, body, engine_request)
        translated = ollama_response.translate_embeddings(answer, body.model, _request_clock(record))
        return _ok_response(record, translated, headers)

    async def embed_one(
        self,
        request: IncomingRequest,
        record: RequestRecord,
        body: OldEmbedRequest,
        engine_request: EngineRequest | None,
    ) -> HTTPResponse:
        """Embed one text, in the format of older clients."""
        answer, headers = await self._compute_vectors(request, record, body, engine_request)
        return _ok_response(record, ollama_response.translate_legacy_embedding(answer), headers)

    async def _compute_vectors(
        self,
        request: IncomingRequest,
        record: RequestRecord,
        body: EmbedRequest | OldEmbedRequest,
        engine_request: EngineRequest | None,
    ) -> tuple[bytes, dict[str, str]]:
        """Return the engine's answer; without a text (`engine_request` None), load or unload the model."""
        if engine_request is None:
            return ollama_response.EMPTY_VECTORS, await self._prepare_model(request, record, body)
        return await self._complete(request, record, body, engine_request)

    async def _stream(
        self,
        request: IncomingRequest,
        record: RequestRecord,
        body: TextRequest,
        engine_request: EngineRequest,
        translator: ResponseTranslator,
    ) -> None:
        record.stream = True
        call = await self._build_call(request, record, body, engine_request)
        response = NdjsonSink(request, record, translator)
        response.note_ignored(call.ignored)
        await self._dispatcher.dispatch(call, await self._recorded(response, call))
        await response.end()

    async def _complete(
        self,
        request: IncomingRequest,
        record: RequestRecord,
        body: ModelRequest,
        engine_request: EngineRequest,
    ) -> tuple[bytes, dict[str, str]]:
        """Return the engine's complete answer and the routing headers."""
        call = await self._build_call(request, record, body, engine_request)
        buffer = BufferedSink()
        result = await self._dispatcher.dispatch(call, await self._recorded(buffer, call))
        # Nothing is written to the client yet, so the error can still become its response.
        if result is not None and result.error is not None:
            raise result.error
        return buffer.body, {**buffer.headers, **ignored_headers(call.ignored)}

    async def _prepare_model(
        self, request: IncomingRequest, record: RequestRecord, body: ModelRequest
    ) -> dict[str, str]:
        """Load the model, or unload it with a `keep_alive` of 0; returns the routing headers."""
        if parse_keep_alive(body.keep_alive) == 0:
            await self._unload_model(request, record, body)
            return {}
        model = self._dispatcher.readiness.resolve_model(body.model)
        engine_request = ollama_request.build_load_request(
            is_embedding=Capability.EMBEDDING in model.capabilities
        )
        _, headers = await self._complete(request, record, body, engine_request)
        return headers

    async def _unload_model(
        self, request: IncomingRequest, record: RequestRecord, body: ModelRequest
    ) -> None:
        if not has_scope(request.ctx.principal, Scope.MODELS_WRITE):
            raise errors.PermissionDenied(f"Unloading a model needs the scope '{Scope.MODELS_WRITE.value}'")
        record.requested_model = body.model
        model = self._dispatcher.readiness.resolve_model(body.model)
        record.model_id = model.id
        async with self._audit_log.recording(request, "model.unload", model.id):
            await self._node_commands.unload(model.id)

    async def _build_call(
        self,
        request: IncomingRequest,
        record: RequestRecord,
        body: ModelRequest,
        engine_request: EngineRequest,
    ) -> InferenceCall:
        """Raises `InvalidRequest`, and the error of a model that is not Ready."""
        record.requested_model = body.model
        if not body.model:
            raise errors.InvalidRequest("model is required", param="model")
        model = await self._dispatcher.readiness.resolve_listed_model(body.model)
        record.model_id = model.id
        size_bytes = len(request.body)
        return await build_call(
            self._dispatcher.readiness,
            self._worker,
            request,
            record,
            path=engine_request.path,
            body=await self._worker.run(size_bytes, lambda: engine_request.encode_body(model.id)),
            requested_model=body.model,
            keep_alive=body.keep_alive,
        )

    async def _recorded(self, sink: ClientSink, call: InferenceCall) -> ClientSink:
        if not self._recorder.keeps_text:
            return sink
        return await self._worker.run(len(call.body), lambda: with_transcript(sink, call.record, call.body))


def _request_clock(record: RequestRecord) -> RequestClock:
    return RequestClock(
        now=lambda: datetime.now(UTC),
        total_s=lambda: time.monotonic() - record.started_at,
        load_s=lambda: record.load_s,
    )


def _ok_response(record: RequestRecord, body: bytes, headers: dict[str, str] | None = None) -> HTTPResponse:
    record.status = 200
    return HTTPResponse(body, headers=headers, content_type=JSON)
