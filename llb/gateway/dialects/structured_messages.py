"""Requests of Messages for an answer in a schema: llama-server enforces a schema in its chats only.

Such a request goes to the engine as a chat, and the answer comes back as a message.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct

from llb.errors import EngineFailed, InvalidRequest
from llb.gateway.dialects.request_fields import OUTPUT_EFFORT
from llb.gateway.inference_call import ClientSink, InferenceCall
from llb.gateway.stream.sse import SSE_KEEPALIVE, is_event_stream_type
from llb.gateway.translation.chat_answer import ChatToMessagesStream, translate_chat_document
from llb.gateway.translation.messages_to_chat import translate_messages_request
from llb.gateway.translation.provider_errors import ProviderFailure
from llb.gateway.translation.translated_request import TranslatedRequest
from llb.policy.endpoints import dialects
from llb.wire.decoding import DECODE_ERRORS

_SCHEMA_TYPE = "json_schema"
_EVENT_LINE = b"event: "
_UNREADABLE_MESSAGE = "The engine ended its answer with an error"


class _OutputConfig(Struct):
    format: Any = None
    effort: Any = None


class _Head(Struct):
    output_config: _OutputConfig | None = None
    # The name of the beta.
    output_format: Any = None


class StructuredMessages(Struct, frozen=True):
    """A request of Messages as a chat."""

    path = dialects.CHAT
    request: TranslatedRequest
    # Requested features that are ignored.
    ignored: tuple[str, ...]
    stop_sequences: tuple[str, ...]

    @property
    def model(self) -> str:
        """Model that the client asked for."""
        return str(self.request.document["model"])

    def encode(self) -> bytes:
        """Body of the chat."""
        return self.request.encode()

    def complete_answer(self, sink: ClientSink, call: InferenceCall) -> MessagesSink:
        """Return a sink that translates the chat's answer to `call` into messages for `sink`."""
        return MessagesSink(sink, call, self)


def read_structured_messages(body: bytes, check_bounds: Callable[[bytes], None]) -> StructuredMessages | None:
    """Return the chat that asks the same as the request of Messages `body`, None for one without a schema.

    `check_bounds` is called before the whole body is read. Raises `InvalidRequest`, also for a format of the
    answer that is unknown.
    """
    if b'"output_config"' not in body and b'"output_format"' not in body:
        return None
    try:
        head = msgspec.json.decode(body, type=_Head)
        given = head.output_config.format if head.output_config is not None else None
        if given is None:
            given = head.output_format
        if given is None:
            return None
        check_bounds(body)
        document = msgspec.json.decode(body, type=dict[str, Any])
    except DECODE_ERRORS:
        # The general reader raises the error for it.
        return None
    name = "output_config.format" if document.get("output_config") else "output_format"
    if not isinstance(given, dict) or given.get("type") != _SCHEMA_TYPE:
        raise InvalidRequest(f"{name} must be an object of the type '{_SCHEMA_TYPE}'", param=name)
    if not isinstance(given.get("schema"), dict):
        raise InvalidRequest(f"{name}.schema is required", param=f"{name}.schema")
    # Both spellings are read from one place from here on.
    document["output_config"] = {"format": given}
    document.pop("output_format", None)
    stops = document.get("stop_sequences")
    translated = translate_messages_request(document, str(document.get("model", "")))
    config = head.output_config
    ignored = translated.ignored
    if config is not None and config.effort is not None:
        ignored = (*ignored, OUTPUT_EFFORT)
    return StructuredMessages(translated, ignored, tuple(map(str, stops)) if isinstance(stops, list) else ())


class MessagesSink:
    """Sink that translates a chat's answer into messages; a document is held until it is complete."""

    def __init__(self, sink: ClientSink, call: InferenceCall, structured: StructuredMessages) -> None:
        self._sink = sink
        self._format_error_event = call.format_error_event
        self._has_failed = False
        self._answer: dict[str, Any] = {
            "model": call.model.id,
            "message_id": f"msg_{uuid.uuid4().hex}",
            "tool_names": structured.request.tool_names,
            "stop_sequences": structured.stop_sequences,
        }
        self._stream: ChatToMessagesStream | None = None
        self._held: list[bytes] = []

    @property
    def started(self) -> bool:
        return self._sink.started

    def start_response(self, status: int, content_type: bytes, *, node_name: str, queued_ms: int) -> None:
        self._sink.start_response(status, content_type, node_name=node_name, queued_ms=queued_ms)
        is_stream = is_event_stream_type(content_type)
        self._stream = ChatToMessagesStream(**self._answer) if is_stream else None
        self._held.clear()

    async def write(self, data: bytes, /, *, last: bool = False) -> None:
        if self._has_failed:
            return
        if data == SSE_KEEPALIVE:
            await self._sink.write(data)
        elif data.lstrip(b"\n").startswith(_EVENT_LINE):
            # An error of llb, in the client's dialect already.
            self._has_failed = True
            await self._sink.write(data)
        elif self._stream is None:
            self._held.append(data)
            if last:
                await self.flush()
        else:
            await self._write_events(partial(self._stream.feed, data))

    async def flush(self) -> None:
        """Write the held bytes at the end of the answer; idempotent."""
        if self._held:
            document, self._held = b"".join(self._held), []
            try:
                message, _ = translate_chat_document(document, **self._answer)
            except ProviderFailure:
                raise EngineFailed(_UNREADABLE_MESSAGE) from None
            await self._sink.write(message, last=True)
        elif self._stream is not None and not self._has_failed:
            stream, self._stream = self._stream, None
            await self._write_events(stream.finish)

    async def _write_events(self, translate: Callable[[], bytes]) -> None:
        try:
            events = translate()
        except ProviderFailure:
            self._has_failed = True
            events = self._format_error_event(EngineFailed(_UNREADABLE_MESSAGE))
        if events:
            await self._sink.write(events)
