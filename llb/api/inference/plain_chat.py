"""Plain chats: bodies that one decoding shows to need no change and no further check.

Most programs send texts, a limit and a temperature. What this accepts, the general way
(`call_builder.read_body`) leaves exactly as it is; whatever is not listed here takes that way.
`tests/api/inference/test_plain_chat.py` compares the two.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from llb.policy.request_bounds import MAX_INT32, MAX_MESSAGES
from llb.wire import InferenceFields
from llb.wire.decoding import DECODE_ERRORS

_TokenLimit = Annotated[int, Meta(ge=0, le=MAX_INT32)]


class _Message(Struct, forbid_unknown_fields=True, gc=False):
    role: Literal["system", "user", "assistant"]
    content: str


class _StreamOptions(Struct, forbid_unknown_fields=True, gc=False):
    include_usage: bool


class _PlainChat(Struct, forbid_unknown_fields=True):
    # Null is none of these types: the general way removes it from the body.
    model: Annotated[str, Meta(max_length=512)]
    messages: Raw
    stream: bool = False
    max_tokens: _TokenLimit | UnsetType = UNSET
    max_completion_tokens: _TokenLimit | UnsetType = UNSET
    temperature: float | UnsetType = UNSET
    top_p: float | UnsetType = UNSET
    top_k: int | UnsetType = UNSET
    min_p: float | UnsetType = UNSET
    presence_penalty: float | UnsetType = UNSET
    frequency_penalty: float | UnsetType = UNSET
    stream_options: _StreamOptions | UnsetType = UNSET


_chat_decoder = msgspec.json.Decoder(_PlainChat)
_messages_decoder = msgspec.json.Decoder(Annotated[list[_Message], Meta(max_length=MAX_MESSAGES)])


def read_plain_chat(body: bytes) -> InferenceFields | None:
    """Return the fields of a plain chat; None for any other body, also one that is not valid."""
    try:
        chat = _chat_decoder.decode(body)
        messages = _messages_decoder.decode(chat.messages)
    except DECODE_ERRORS:
        return None
    # What every chat template prints: a system message at the front at most, then turns that alternate and
    # end with the user's.
    role = ""
    for message in messages:
        if message.role == role or (message.role == "system" and role):
            return None
        role = message.role
    max_tokens, max_completion_tokens = chat.max_tokens, chat.max_completion_tokens
    if role != "user" or (max_tokens is not UNSET and max_completion_tokens is not UNSET):
        return None
    return InferenceFields(
        model=chat.model,
        stream=chat.stream,
        max_tokens=None if max_tokens is UNSET else max_tokens,
        max_completion_tokens=None if max_completion_tokens is UNSET else max_completion_tokens,
        messages=chat.messages,
    )
