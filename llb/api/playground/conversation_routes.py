"""Routes of the Playground: conversations and their messages, presets."""

from __future__ import annotations

import re

from sanic import Request
from sanic.response import HTTPResponse

from llb.api.blueprint import Blueprint
from llb.api.connection.http_exchange import ServerHttp
from llb.api.middleware.compression import compress_response
from llb.api.middleware.route_policy import authenticated, authenticated_up_to
from llb.api.playground.conversation_service import ConversationService
from llb.api.playground.running_answers import RunningAnswers
from llb.api.reference.operation import ApiOperation, RequestParameter
from llb.api.request_body import LargeBodyWorker, parse_body
from llb.api.responses import JSON, json_response, no_content
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
from llb.security.permissions import Principal, PrincipalKind
from llb.texts.coded_text import CodedText
from llb.wire import (
    Conversation,
    ConversationImport,
    ConversationImportReply,
    ConversationList,
    ConversationMessage,
    ConversationPatch,
    Preset,
    PresetList,
)
from llb.wire.conversations import ID_PATTERN

MAX_QUERY_CHARS = 200
MAX_IMPORT_BYTES = 16 * 1024 * 1024


def user_id_of(request: Request) -> str:
    """Return the user whose session sent `request`; raises `PermissionDenied` for a key."""
    principal: Principal = request.ctx.principal
    if principal.kind is not PrincipalKind.SESSION or principal.user_id is None:
        raise PermissionDenied("Conversations belong to a user who is signed in; API keys have none")
    return principal.user_id


def check_id(text: str) -> str:
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
    _add_list_routes(blueprint, service, worker)
    _add_conversation_routes(blueprint, service, answers)
    _add_message_routes(blueprint, service, answers, worker)
    return blueprint


def _add_list_routes(blueprint: Blueprint, service: ConversationService, worker: LargeBodyWorker) -> None:
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


def _add_conversation_routes(
    blueprint: Blueprint, service: ConversationService, answers: RunningAnswers
) -> None:
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
        await service.change(user_id_of(request), check_id(conversation_id), patch)
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


def _add_message_routes(
    blueprint: Blueprint, service: ConversationService, answers: RunningAnswers, worker: LargeBodyWorker
) -> None:
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
