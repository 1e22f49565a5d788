"""Routes of the Playground: answers, whose generation continues when the page is closed."""

from __future__ import annotations

import msgspec
from sanic import Request
from sanic.response import HTTPResponse

from llb.accounts.principal_watch import PrincipalWatch
from llb.api.blueprint import Blueprint
from llb.api.connection.http_exchange import ServerHttp
from llb.api.inference.call_builder import append_fields
from llb.api.middleware.route_policy import requires_scope
from llb.api.playground.conversation_routes import check_id, user_id_of
from llb.api.playground.conversation_service import ConversationService
from llb.api.playground.running_answers import RunningAnswer, RunningAnswers
from llb.api.reference.operation import ApiOperation
from llb.api.request_body import LargeBodyWorker, decode_json, parse_body
from llb.api.responses import PassthroughResponse, no_content
from llb.errors import (
    Conflict,
    ConversationLimitReached,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    RateLimited,
    ServerBusy,
)
from llb.gateway.stream.sse import SSE_KEEPALIVE, format_error_event, format_event
from llb.wire import (
    AnswerEvent,
    AnswerRequest,
    InferenceFields,
    Scope,
)
from llb.wire.conversations import MAX_MODEL_CHARS

_encoder = msgspec.json.Encoder()
_STREAM_FIELDS = {"stream": True, "stream_options": {"include_usage": True}}


def answers_blueprint(
    service: ConversationService,
    answers: RunningAnswers,
    principal_watch: PrincipalWatch,
    worker: LargeBodyWorker,
) -> Blueprint:
    """`/api/conversations/…/answers`: answers that continue when the page is closed."""
    blueprint = Blueprint("answers")
    responder = _AnswerResponder(service, answers, principal_watch, worker)

    @blueprint.post("/api/conversations/<conversation_id:str>/answers", name="begin")
    @requires_scope(Scope.INFERENCE)
    @ApiOperation(
        "Generate an answer",
        description=(
            "The answer goes on when the connection is closed, and is saved in the conversation. It counts "
            "against the limits of its user like any request, and ends with the session. A request that "
            "fails is an answer with an `error`."
        ),
        body=AnswerRequest,
        stream_event=AnswerEvent,
        errors=(PermissionDenied, NotFound, Conflict, ConversationLimitReached, RateLimited, ServerBusy),
    )
    async def begin_answer(request: Request, conversation_id: str) -> None:
        user_id = user_id_of(request)
        check_id(conversation_id)
        answer = await responder.begin(
            request,
            (user_id, conversation_id),
            await worker.run(len(request.body), lambda: parse_body(request, AnswerRequest)),
        )
        await responder.stream(request, answer)

    @blueprint.get("/api/conversations/<conversation_id:str>/answers/<answer_id:str>", name="follow")
    @requires_scope(Scope.INFERENCE)
    @ApiOperation(
        "Follow an answer that is being generated",
        description="From its beginning. One that has ended is a message of its conversation.",
        stream_event=AnswerEvent,
        errors=(PermissionDenied, NotFound, RateLimited),
    )
    async def follow_answer(request: Request, conversation_id: str, answer_id: str) -> None:
        key = (user_id_of(request), conversation_id, answer_id)
        answer = answers.get(key)
        if answer is None:
            raise NotFound("This answer is not being generated")
        with answers.followed(key):
            await responder.stream(request, answer)

    @blueprint.delete("/api/conversations/<conversation_id:str>/answers/<answer_id:str>", name="stop")
    @requires_scope(Scope.INFERENCE)
    @ApiOperation(
        "Stop an answer",
        description="What was generated stays.",
        status=204,
        errors=(PermissionDenied, NotFound),
    )
    async def stop_answer(request: Request, conversation_id: str, answer_id: str) -> HTTPResponse:
        if not answers.stop(user_id_of(request), conversation_id, answer_id):
            raise NotFound("This answer is not being generated")
        return no_content()

    return blueprint


class _AnswerResponder:
    """Starts answers, and streams them to the clients that follow them."""

    def __init__(
        self,
        service: ConversationService,
        answers: RunningAnswers,
        principal_watch: PrincipalWatch,
        worker: LargeBodyWorker,
    ) -> None:
        self._service = service
        self._answers = answers
        self._principal_watch = principal_watch
        self._worker = worker

    async def begin(self, request: Request, place: tuple[str, str], wanted: AnswerRequest) -> RunningAnswer:
        """Start the answer to `wanted` in the conversation `place`."""
        # A separate method, so that the decoded body is freed before the response ends.
        body = bytes(wanted.request)
        fields = await self._worker.run(len(body), lambda: decode_json(body, InferenceFields))
        if len(fields.model) > MAX_MODEL_CHARS:
            raise InvalidRequest(f"model must have at most {MAX_MODEL_CHARS} characters", param="model")
        key = (*place, wanted.answer_id)
        with self._answers.reserved(key):
            # The request may end before the answer, which holds a body and a message as long.
            share = request.app.ctx.connections.body_budget.open(request.ctx.principal)
            try:
                share.add(len(body))
                message = await self._service.begin_answer(
                    *place, wanted, fields.model, count_bytes=share.add
                )
                streamed = await self._worker.run(len(body), lambda: append_fields(body, _STREAM_FIELDS))
            except BaseException:
                share.release()
                raise
            # Else the answer would keep all of it, uncounted once the connection is closed.
            request.body = b""
            if isinstance(request.stream, ServerHttp):
                request.stream.release_body()
            return self._answers.begin(key, message, request, streamed, share.release)

    async def stream(self, request: Request, answer: RunningAnswer) -> None:
        """Send the events of `answer` until it ends, or the client may no longer follow it."""
        response = await request.respond(PassthroughResponse(headers={}, content_type="text/event-stream"))
        assert response is not None  # noqa: S101  # it was given

        async def send() -> None:
            # The head of the response leaves with it: the answer has begun.
            await response.send(SSE_KEEPALIVE)
            async for event in answer.follow():
                data = SSE_KEEPALIVE if event is None else await self._encode_event(event)
                await response.send(data)

        with self._principal_watch.open(request.ctx.principal) as work:
            await work.run_until_ended(send())
        if work.error is not None:
            await response.send(format_error_event(work.error))
        await response.eof()

    async def _encode_event(self, event: AnswerEvent) -> bytes:
        # Only the last event can be large.
        chars = 0 if event.message is None else len(event.message.text) + len(event.message.reasoning)
        return await self._worker.run(chars, lambda: format_event(_encoder.encode(event)))
