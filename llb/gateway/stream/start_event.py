"""What llama-server leaves out where the first token is no whole character (an emoji, a kanji): how a stream begins. Clients of
Anthropic's dialect fail without it, and only there do the tokens of the prompt stand; some of OpenAI's miss the role."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from llb.gateway.http.response import UpstreamResponse
from llb.gateway.http.upstream_errors import InvalidResponse
from llb.gateway.stream.sse import format_event
from llb.wire.decoding import DECODE_ERRORS

CHAT_PATH = b"/v1/chat/completions"
MESSAGES_PATH = b"/v1/messages"
COUNT_TOKENS_PATH = MESSAGES_PATH + b"/count_tokens"
MAX_COUNT_RESPONSE_BYTES = 4096
_MESSAGE_START = b"message_start"
_MESSAGE_START_EVENT = b"event: " + _MESSAGE_START + b"\n"
_ERROR_EVENT = b"event: error\n"
_ROLE_FIELD = b'"role":'  # cannot stand inside a JSON string, whose quotes are escaped


class StartEvent(Protocol):
    """How the streams of one dialect begin."""

    async def missing_prefix(self, events: bytes) -> bytes:
        """What is missing before the first events of a stream, mostly nothing; raises `UpstreamFault`."""
        ...


class MessagesStartEvent:
    """Anthropic's. `count` has the engine count the tokens of the prompt, and raises `UpstreamFault`."""

    def __init__(self, model_id: str, request_id: str, count_tokens: Callable[[], Awaitable[int]]) -> None:
        self._model_id = model_id
        self._request_id = request_id
        self._count_tokens = count_tokens

    async def missing_prefix(self, events: bytes) -> bytes:
        """What the engine would have written, but that it does not say how much of the prompt was in its cache."""
        if events.startswith((_MESSAGE_START_EVENT, _ERROR_EVENT)):
            return b""
        usage = {"cache_read_input_tokens": 0, "input_tokens": await self._count_tokens(), "output_tokens": 0}
        message: dict[str, object] = {
            "id": f"msg_{self._request_id}",
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": self._model_id,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }
        event = {"type": "message_start", "message": message}
        return format_event(msgspec.json.encode(event), _MESSAGE_START)


class ChatStartEvent:
    """OpenAI's chat."""

    async def missing_prefix(self, events: bytes) -> bytes:
        """A first piece like the one that came, but with the role alone."""
        first = events.partition(b"\n\n")[0]
        if _ROLE_FIELD in first or not first.startswith(b"data:"):
            return b""
        try:
            chunk = msgspec.json.decode(first[5:], type=dict[str, Any])
            [choice] = msgspec.convert(chunk.get("choices"), list[dict[str, Any]])
        except (*DECODE_ERRORS, ValueError):
            return b""  # an error, or the last piece of a stream without any other
        delta = {"role": "assistant", "content": None}
        begun = {**chunk, "choices": [{**choice, "finish_reason": None, "delta": delta}]}
        begun.pop("timings", None)
        return format_event(msgspec.json.encode(begun))


class _TokenCount(Struct):
    input_tokens: int


async def read_token_count(response: UpstreamResponse, timeout_s: float) -> int:
    """The number in an answer to `COUNT_PATH`; raises `UpstreamFault`."""
    try:
        body = await response.read(MAX_COUNT_RESPONSE_BYTES, timeout_s)
        return msgspec.json.decode(body, type=_TokenCount).input_tokens
    except DECODE_ERRORS:
        raise InvalidResponse("the engine did not count the prompt") from None
    finally:
        response.close()
