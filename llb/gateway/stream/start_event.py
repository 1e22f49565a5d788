"""Start event of a stream, added if llama-server omits it.

It does so if the first token is no whole character (an emoji, a kanji). Anthropic's clients fail without
`message_start`, the only event that counts the prompt; some of OpenAI's clients need the role.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from llb.gateway.http.response import UpstreamResponse
from llb.gateway.http.upstream_errors import InvalidResponse
from llb.gateway.stream.sse import format_event
from llb.policy.endpoints import dialects
from llb.wire.decoding import DECODE_ERRORS

CHAT_PATH = dialects.CHAT.encode("ascii")
MESSAGES_PATH = dialects.MESSAGES.encode("ascii")
COUNT_TOKENS_PATH = dialects.COUNT_TOKENS.encode("ascii")
MAX_COUNT_RESPONSE_BYTES = 4096
_MESSAGE_START = b"message_start"
_MESSAGE_START_EVENT = b"event: " + _MESSAGE_START + b"\n"
_ERROR_EVENT = b"event: error\n"
# Cannot occur inside a JSON string, whose quotes are escaped.
_ROLE_FIELD = b'"role":'


class StartEvent(Protocol):
    """Start of the streams of one dialect."""

    async def missing_prefix(self, events: bytes) -> bytes:
        """Return the missing start event, usually empty; raises `TransportError`."""
        ...


class MessagesStartEvent:
    """Anthropic's `message_start`.

    `count_tokens` lets the engine count the prompt and raises `TransportError`.
    """

    def __init__(self, model_id: str, request_id: str, count_tokens: Callable[[], Awaitable[int]]) -> None:
        self._model_id = model_id
        self._request_id = request_id
        self._count_tokens = count_tokens

    async def missing_prefix(self, events: bytes) -> bytes:
        """Return the engine's own event, except that the cached part of the prompt is unknown."""
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
    """First chunk of OpenAI's chat, with the role."""

    async def missing_prefix(self, events: bytes) -> bytes:
        return self.prefix_of(events)

    def prefix_of(self, events: bytes) -> bytes:
        """Return a copy of the first chunk with the role alone, if it has none."""
        first = events.partition(b"\n\n")[0]
        if _ROLE_FIELD in first or not first.startswith(b"data:"):
            return b""
        try:
            chunk = msgspec.json.decode(first[5:], type=dict[str, Any])
            [choice] = msgspec.convert(chunk.get("choices"), list[dict[str, Any]])
        except (*DECODE_ERRORS, ValueError):
            # An error, or the last chunk of a stream without any other.
            return b""
        delta = {"role": "assistant", "content": None}
        begun = {**chunk, "choices": [{**choice, "finish_reason": None, "delta": delta}]}
        begun.pop("timings", None)
        return format_event(msgspec.json.encode(begun))


class _TokenCount(Struct):
    input_tokens: int


async def read_token_count(response: UpstreamResponse, timeout_s: float) -> int:
    """Return the tokens that an answer to `COUNT_TOKENS_PATH` reports; raises `TransportError`."""
    try:
        body = await response.read(MAX_COUNT_RESPONSE_BYTES, timeout_s)
        return msgspec.json.decode(body, type=_TokenCount).input_tokens
    except DECODE_ERRORS:
        raise InvalidResponse("the engine did not count the prompt") from None
    finally:
        response.close()
