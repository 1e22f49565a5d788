"""Routes of the Playground: conversations and their messages, answers, presets."""

from __future__ import annotations

import re

import msgspec
from sanic import Request
from sanic.response import HTTPResponse

from llb.accounts.principal_watch import PrincipalWatch
from llb.api.blueprint import Blueprint
from llb.api.connection.http_exchange import ServerHttp
from llb.api.inference.call_builder import append_fields
from llb.api.middleware.compression import compress_response
from llb.api.middleware.route_policy import authenticated, authenticated_up_to, requires_scope
from llb.api.playground.conversation_service import ConversationService
from llb.api.playground.running_answers import RunningAnswer, RunningAnswers
from llb.api.reference.operation import ApiOperation, RequestParameter
from llb.api.request_body import LargeBodyWorker, decode_json, parse_body
from llb.api.responses import JSON, PassthroughResponse, json_response, no_content
from llb.errors import (
    Conflict,
    ConversationLimitReached,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    PermissionDenied,
    RateLimited,
    ServerBusy,
)
from llb.gateway.stream.sse import SSE_KEEPALIVE, format_error_event, format_event
from llb.security.permissions import Principal, PrincipalKind
from llb.texts.coded_text import CodedText
from llb.wire import (
    AnswerEvent,
    AnswerRequest,
    Conversation,
    ConversationImport,
    ConversationImportReply,
    ConversationList,
    ConversationMessage,
    ConversationPatch,
    InferenceFields,
    Preset,
    PresetList,
    Scope,
)
from llb.wire.conversations import ID_PATTERN, MAX_MODEL_CHARS

MAX_QUERY_CHARS = 200
MAX_IMPORT_BYTES = 16 * 1024 * 1024
_encoder = msgspec.json.Encoder()
_STREAM_FIELDS = {"stream": True, "stream_options": {"include_usage": True}}


def user_id_of(request: Request) -> str:
    """Return the user whose session sent `request`; raises `PermissionDenied` for a key."""
    principal: Principal = request.ctx.principal
    if principal.kind is not PrincipalKind.SESSION or principal.user_id is None:
        raise PermissionDenied("Conversations belong to a user who is signed in; API keys have none")
    return principal.user_id


def _check_id(text: str) -> str:
    if re.fullmatch(ID_PATTERN, text) is None:
        raise InvalidRequest("An id has 1 to 64 letters, digits and hyphens", param="id")
    return text


def conversations_blueprint(
    service: ConversationService,
    answers: RunningAnswers,
    worker: LargeBodyWorker,
) -> Blueprint:
    """`/api/conversations`: a user's own, by session only."""
    blueprint = Blueprint("conversations")

    @blueprint.get("/api/conversations", name="list")
    @authenticated
    @ApiOperation(
        "List conversations",
        description="Your own; needs a session. Pinned ones first, then the last changed first.",
        response=ConversationList,
        parameters=(RequestParameter("q", str, "Only those whose title or messages contain this text."),),
        errors=(PermissionDenied,),
    )
    async def list_conversations(request: Request) -> HTTPResponse:
        text = request.args.get("q") or ""
        if len(text) > MAX_QUERY_CHARS:
            raise InvalidRequest(f"q must have at most {MAX_QUERY_CHARS} characters", param="q")
        found = await service.list_summaries(user_id_of(request), text)
        return await compress_response(request, json_response(found))

    @blueprint.post("/api/conversations/import", name="import")
    @authenticated_up_to(MAX_IMPORT_BYTES)
    @ApiOperation(
        "Import conversations",
        description=(
            "Existing conversations get the messages that they lack, and keep everything else. "
            "A body may have 16 MiB."
        ),
        body=ConversationImport,
        response=ConversationImportReply,
        errors=(PermissionDenied, ConversationLimitReached, PayloadTooLarge),
    )
    async def import_conversations(request: Request) -> HTTPResponse:
        user_id = user_id_of(request)
        prepared = await worker.run(
            len(request.body), lambda: service.prepare_import(parse_body(request, ConversationImport))
        )
        return json_response(await service.import_all(user_id, prepared))

    @blueprint.get("/api/conversations/<conversation_id:str>", name="get")
    @authenticated
    @ApiOperation(
        "Show a conversation with its messages",
        response=Conversation,
        errors=(PermissionDenied, NotFound, RateLimited, ServerBusy),
    )
    async def get_conversation(request: Request, conversation_id: str) -> HTTPResponse:
        user_id = user_id_of(request)
        # Held until the response is sent: a slow client keeps it in memory.
        share = request.app.ctx.connections.body_budget.open(request.ctx.principal)
        try:
            found = await service.get(user_id, conversation_id, share.add)
            response = HTTPResponse(found, content_type=JSON)
            response = await compress_response(request, response)
        except BaseException:
            share.release()
            raise
        if isinstance(request.stream, ServerHttp):
            request.stream.hold(share)
        else:
            share.release()
        return response

    @blueprint.patch("/api/conversations/<conversation_id:str>", name="change")
    @authenticated
    @ApiOperation(
        "Create a conversation, or change it",
        description="Omitted fields stay.",
        body=ConversationPatch,
        status=204,
        errors=(PermissionDenied, ConversationLimitReached),
    )
    async def change_conversation(request: Request, conversation_id: str) -> HTTPResponse:
        patch = parse_body(request, ConversationPatch)
        await service.change(user_id_of(request), _check_id(conversation_id), patch)
        return no_content()

    @blueprint.delete("/api/conversations/<conversation_id:str>", name="delete")
    @authenticated
    @ApiOperation(
        "Delete a conversation",
        description="Answers that are being generated end.",
        status=204,
        errors=(PermissionDenied, NotFound),
    )
    async def delete_conversation(request: Request, conversation_id: str) -> HTTPResponse:
        user_id = user_id_of(request)
        await service.remove(user_id, conversation_id)
        answers.stop(user_id, conversation_id)
        return no_content()

    @blueprint.put("/api/conversations/<conversation_id:str>/messages/<message_id:str>", name="put_message")
    @authenticated
    @ApiOperation(
        "Insert or replace a message",
        description="The id in the body is that of the path.",
        body=ConversationMessage,
        status=204,
        errors=(PermissionDenied, NotFound, ConversationLimitReached),
    )
    async def put_message(request: Request, conversation_id: str, message_id: str) -> HTTPResponse:
        user_id = user_id_of(request)
        message = await worker.run(len(request.body), lambda: parse_body(request, ConversationMessage))
        if message.id != message_id:
            raise InvalidRequest("The id of the message is not that of the path", param="id")
        if answers.get((user_id, conversation_id, message_id)) is not None:
            raise Conflict(CodedText("answer_running_stop", "This answer is being generated; stop it first"))
        await service.put_message(user_id, conversation_id, message)
        return no_content()

    @blueprint.delete(
        "/api/conversations/<conversation_id:str>/messages/<message_id:str>", name="delete_message"
    )
    @authenticated
    @ApiOperation(
        "Delete a message",
        description="Its replies follow the message before it.",
        status=204,
        errors=(PermissionDenied, NotFound),
    )
    async def delete_message(request: Request, conversation_id: str, message_id: str) -> HTTPResponse:
        user_id = user_id_of(request)
        await service.remove_message(user_id, conversation_id, message_id)
        answers.stop(user_id, conversation_id, message_id)
        return no_content()

    return blueprint


def answers_blueprint(
    service: ConversationService,
    answers: RunningAnswers,
    principal_watch: PrincipalWatch,
    worker: LargeBodyWorker,
) -> Blueprint:
    """`/api/conversations/…/answers`: answers that go on when the page is closed."""
    blueprint = Blueprint("answers")

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
        _check_id(conversation_id)
        answer = await _begin(
            request,
            (user_id, conversation_id),
            await worker.run(len(request.body), lambda: parse_body(request, AnswerRequest)),
        )
        await _stream(request, answer)

    async def _begin(request: Request, place: tuple[str, str], wanted: AnswerRequest) -> RunningAnswer:
        # A function of its own: what was decoded must not be held as long as the response.
        body = bytes(wanted.request)
        fields = await worker.run(len(body), lambda: decode_json(body, InferenceFields))
        if len(fields.model) > MAX_MODEL_CHARS:
            raise InvalidRequest(f"model must have at most {MAX_MODEL_CHARS} characters", param="model")
        key = (*place, wanted.answer_id)
        with answers.reserved(key):
            # The request may end before the answer, which holds a body and a message as long.
            share = request.app.ctx.connections.body_budget.open(request.ctx.principal)
            try:
                share.add(len(body))
                message = await service.begin_answer(*place, wanted, fields.model, count_bytes=share.add)
                streamed = await worker.run(len(body), lambda: append_fields(body, _STREAM_FIELDS))
            except BaseException:
                share.release()
                raise
            # Else the answer would keep all of it, uncounted once the connection is closed.
            request.body = b""
            if isinstance(request.stream, ServerHttp):
                request.stream.release_body()
            return answers.begin(key, message, request, streamed, share.release)

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
            await _stream(request, answer)

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

    async def _encode_event(event: AnswerEvent) -> bytes:
        # Only the last event can be large.
        chars = 0 if event.message is None else len(event.message.text) + len(event.message.reasoning)
        return await worker.run(chars, lambda: format_event(_encoder.encode(event)))

    async def _stream(request: Request, answer: RunningAnswer) -> None:
        response = await request.respond(PassthroughResponse(headers={}, content_type="text/event-stream"))
        assert response is not None  # noqa: S101  # it was given

        async def send() -> None:
            # The head of the response leaves with it: the answer has begun.
            await response.send(SSE_KEEPALIVE)
            async for event in answer.follow():
                data = SSE_KEEPALIVE if event is None else await _encode_event(event)
                await response.send(data)

        with principal_watch.open(request.ctx.principal) as work:
            await work.run_until_ended(send())
        if work.error is not None:
            await response.send(format_error_event(work.error))
        await response.eof()

    return blueprint


def presets_blueprint(service: ConversationService) -> Blueprint:
    """`/api/presets`: a user's own, by session only."""
    blueprint = Blueprint("presets")

    @blueprint.get("/api/presets", name="list")
    @authenticated
    @ApiOperation("List presets", response=PresetList, errors=(PermissionDenied,))
    async def list_presets(request: Request) -> HTTPResponse:
        return json_response(await service.list_presets(user_id_of(request)))

    @blueprint.put("/api/presets/<preset_id:str>", name="put")
    @authenticated
    @ApiOperation(
        "Insert or replace a preset",
        description="Each model is the default of one preset at most.",
        body=Preset,
        status=204,
        errors=(PermissionDenied, ConversationLimitReached),
    )
    async def put_preset(request: Request, preset_id: str) -> HTTPResponse:
        preset = parse_body(request, Preset)
        if preset.id != preset_id:
            raise InvalidRequest("The id of the preset is not that of the path", param="id")
        await service.put_preset(user_id_of(request), preset)
        return no_content()

    @blueprint.delete("/api/presets/<preset_id:str>", name="delete")
    @authenticated
    @ApiOperation("Delete a preset", status=204, errors=(PermissionDenied, NotFound))
    async def delete_preset(request: Request, preset_id: str) -> HTTPResponse:
        await service.remove_preset(user_id_of(request), preset_id)
        return no_content()

    return blueprint
