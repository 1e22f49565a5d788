"""As `shapes`, of Anthropic's dialect."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from llb import errors
from llb.api.reference.operation import ApiOperation, ErrorFormat
from llb.api.reference.schemas import (
    INFERENCE_ERRORS,
    SESSION_PARAMETER,
    ExtensibleObject,
    ModelRequest,
    StreamEvent,
    StreamFlag,
    TokenCount,
    TokenLimit,
)

OVERLOADED_STATUS = 529


class Turn(ExtensibleObject, frozen=True, kw_only=True, omit_defaults=True):
    """`content` is a text, or blocks of text, images (base64), tools and thinking."""

    role: Literal["user", "assistant"]
    content: str | list[dict[str, Any]]


class MessagesRequest(ModelRequest, frozen=True, kw_only=True, omit_defaults=True):
    """Anthropic's Messages, as llama.cpp understands them: what it does not know it passes over."""

    messages: Annotated[list[Turn], Meta(min_length=1)]
    max_tokens: TokenLimit | None = None
    system: str | list[dict[str, Any]] | None = None
    stream: StreamFlag = False


class AnswerMessage(ExtensibleObject, frozen=True, kw_only=True):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: str | None
    usage: dict[str, Any]


class MessageErrorBody(ExtensibleObject, frozen=True, kw_only=True):
    """`type` is one of Anthropic's, `code` llb's own."""

    type: str
    message: str
    code: str


class MessageError(ExtensibleObject, frozen=True, kw_only=True):
    """An error as Anthropic's clients know it."""

    type: Literal["error"]
    error: MessageErrorBody
    request_id: str


ANTHROPIC_ERROR_FORMAT = ErrorFormat(
    schema_type=MessageError, status_overrides=((errors.Overloaded, OVERLOADED_STATUS),)
)
# By address: these operations share their handler.
MESSAGES_OPERATIONS = {
    "/v1/messages": ApiOperation(
        summary="Chat, in Anthropic's dialect",
        body=MessagesRequest,
        response=AnswerMessage,
        stream_event=StreamEvent,
        parameters=(SESSION_PARAMETER,),
        errors=INFERENCE_ERRORS,
        error_format=ANTHROPIC_ERROR_FORMAT,
    ),
    "/v1/messages/count_tokens": ApiOperation(
        summary="Count the tokens of messages",
        description="Takes no slot.",
        body=MessagesRequest,
        response=TokenCount,
        parameters=(SESSION_PARAMETER,),
        errors=INFERENCE_ERRORS,
        error_format=ANTHROPIC_ERROR_FORMAT,
    ),
}
