"""As `shapes`, of Anthropic's dialect."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from llb import errors
from llb.api.documented import Dialect, Documented
from llb.api.shapes import (
    OF_INFERENCE,
    SESSION,
    ModelRequest,
    Passing,
    Stream,
    StreamEvent,
    TokenCount,
    Tokens,
)

OVERLOADED_STATUS = 529


class Turn(Passing, frozen=True, kw_only=True, omit_defaults=True):
    """`content` is a text, or blocks of text, images (base64), tools and thinking."""

    role: Literal["user", "assistant"]
    content: str | list[dict[str, Any]]


class MessagesRequest(ModelRequest, frozen=True, kw_only=True, omit_defaults=True):
    """Anthropic's Messages, as llama.cpp understands them: what it does not know it passes over."""

    messages: Annotated[list[Turn], Meta(min_length=1)]
    max_tokens: Tokens | None = None
    system: str | list[dict[str, Any]] | None = None
    stream: Stream = False


class AnswerMessage(Passing, frozen=True, kw_only=True):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: str | None
    usage: dict[str, Any]


class MessageErrorBody(Passing, frozen=True, kw_only=True):
    """`type` is one of Anthropic's, `code` llb's own."""

    type: str
    message: str
    code: str


class MessageError(Passing, frozen=True, kw_only=True):
    """An error as Anthropic's clients know it."""

    type: Literal["error"]
    error: MessageErrorBody
    request_id: str


DIALECT = Dialect(shape=MessageError, statuses=((errors.Overloaded, OVERLOADED_STATUS),))
# By address: these operations share their handler.
MESSAGES = {
    "/v1/messages": Documented(
        summary="Chat, in Anthropic's dialect",
        body=MessagesRequest,
        reply=AnswerMessage,
        events=StreamEvent,
        arguments=(SESSION,),
        errors=OF_INFERENCE,
        dialect=DIALECT,
    ),
    "/v1/messages/count_tokens": Documented(
        summary="Count the tokens of messages",
        text="Takes no slot.",
        body=MessagesRequest,
        reply=TokenCount,
        arguments=(SESSION,),
        errors=OF_INFERENCE,
        dialect=DIALECT,
    ),
}
