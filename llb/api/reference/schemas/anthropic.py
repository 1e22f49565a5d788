"""Schemas and operations of Anthropic's dialect."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from llb import errors
from llb.api.reference.operation import ApiOperation, ErrorFormat
from llb.api.reference.schemas.common import (
    INFERENCE_ERRORS,
    SESSION_PARAMETER,
    ExtensibleObject,
    ModelRequest,
    StreamEvent,
    StreamFlag,
    TokenCount,
    TokenLimit,
)

# The status with which Anthropic's API reports that it is overloaded.
OVERLOADED_STATUS = 529


class Turn(ExtensibleObject, frozen=True, kw_only=True, omit_defaults=True):
    """One message. `content` is a text, or blocks of text, images (base64), tool use and thinking."""

    role: Literal["user", "assistant"]
    content: str | list[dict[str, Any]]


class MessagesRequest(ModelRequest, frozen=True, kw_only=True, omit_defaults=True):
    """Anthropic's Messages as llama.cpp implements them: it ignores fields that it does not know."""

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
    """`type` is one of Anthropic's error types, `code` is llb's own code."""

    type: str
    message: str
    code: str


class MessageError(ExtensibleObject, frozen=True, kw_only=True):
    """An error in the format of Anthropic's API."""

    type: Literal["error"]
    error: MessageErrorBody
    request_id: str


ANTHROPIC_ERROR_FORMAT = ErrorFormat(
    schema_type=MessageError, status_overrides=((errors.Overloaded, OVERLOADED_STATUS),)
)
# Operations by path, because these routes share their handler.
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
        description="Occupies no slot.",
        body=MessagesRequest,
        response=TokenCount,
        parameters=(SESSION_PARAMETER,),
        errors=INFERENCE_ERRORS,
        error_format=ANTHROPIC_ERROR_FORMAT,
    ),
}
