"""Inference request as a route passes it to the dispatcher, and the client that receives the answer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from llb import errors
from llb.gateway.engine_routes import Operation
from llb.gateway.normalization.request import normalize_request
from llb.gateway.observability.request_log import RequestRecord
from llb.gateway.stream.sse import format_error_event
from llb.policy.keep_alive import KeepAlive
from llb.wire import InferenceFields, Model, TemplateSupport


def _hold_uncounted(_size_bytes: int) -> AbstractContextManager[None]:
    return nullcontext()


class InferenceCall(Struct, frozen=True):
    """Request of a client for a model. The outcome is written into `record`."""

    record: RequestRecord
    model: Model
    # Path of the engine's route, and the body as it is passed on.
    path: bytes
    body: bytes
    head: InferenceFields
    operation: Operation
    stream: bool
    key_id: str
    # Name that the client gave to the conversation.
    session: str | None = None
    keep_alive: KeepAlive | None = None
    # Headers of the client's dialect, for endpoints that speak it: `anthropic-version` and `-beta`.
    dialect_headers: tuple[tuple[bytes, bytes], ...] = ()
    # The header `Via`: other llb that the request has passed.
    via: str = ""
    # Maximum wait for a slot, None for the default.
    queue_timeout_s: float | None = None
    # Writes an error into a stream, in the client's dialect.
    format_error_event: Callable[[errors.LlbError], bytes] = format_error_event
    # Requested features that are ignored, for the header `x-llb-ignored`.
    ignored: tuple[str, ...] = ()
    # Template support that the body was made for; None if the template was unknown.
    template: TemplateSupport | None = None
    # Whether every chat template accepts it unchanged.
    fits_any_template: bool = False
    # Counts the bytes of copies of the body while the block runs; raises if they take too much memory.
    hold_copies: Callable[[int], AbstractContextManager[None]] = _hold_uncounted

    def fit_template(self, template: TemplateSupport | None) -> InferenceCall:
        """Return the call for an engine with this template support; itself if nothing differs.

        Raises `ToolsNotSupported`.
        """
        if self.fits_any_template or template is None or template == self.template:
            return self
        fields = msgspec.json.decode(self.body, type=dict[str, msgspec.Raw])
        fitted = normalize_request(self.path.decode("ascii"), fields, template)
        return replace(self, body=fitted.body or self.body, template=template)

    @property
    def max_completion_tokens(self) -> int | None:
        """Longest answer that the client accepts, in tokens; None for no limit."""
        if not self.operation.generates_text:
            return 0
        head = self.head
        if head.max_completion_tokens is None and head.max_output_tokens is None and head.n_predict is None:
            # Fast path: every request asks twice.
            return head.max_tokens
        limits = (head.max_tokens, head.max_completion_tokens, head.max_output_tokens, head.n_predict)
        return min(limit for limit in limits if limit is not None)

    @property
    def most_completion_tokens(self) -> int | None:
        """Return the largest answer that a target may read from the limits, in tokens; None for no limit.

        Programs differ in which of several limits they read, and whether zero is one.
        """
        if not self.operation.generates_text:
            return 0
        head = self.head
        limits = (head.max_tokens, head.max_completion_tokens, head.max_output_tokens)
        given = [limit for limit in limits if limit is not None]
        if self.model.is_external and given:
            return max(given) if min(given) > 0 else None
        return None if self.model.is_external else self.max_completion_tokens


class ClientSink(Protocol):
    """The client: `start_response` is called once, then `write` with the bytes of the answer."""

    @property
    def started(self) -> bool: ...

    def start_response(self, status: int, content_type: bytes, *, node_name: str, queued_ms: int) -> None: ...

    async def write(self, data: bytes, /, *, last: bool = False) -> None: ...


class DirectSink(ClientSink, Protocol):
    """Client that accepts writes without a wait."""

    def write_now(self, data: bytes, /, *, last: bool = False) -> None:
        """Write at once, even if the client is slow; `last` ends the answer.

        Like `write`, it may replace a comment by the equivalent of the dialect.
        """
        ...
