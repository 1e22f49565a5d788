"""Exchange with an endpoint: one request, its answer, and what both say about the health of the endpoint."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import ClassVar

from msgspec import Struct
from msgspec.structs import replace

from llb import errors
from llb.gateway.endpoints.answer import EndpointAnswerSink, OpeningFilter, TranslatedAnswer
from llb.gateway.endpoints.answer_errors import Effect, read_error
from llb.gateway.endpoints.checks import describe_failure
from llb.gateway.endpoints.endpoint import ANTHROPIC_VERSION
from llb.gateway.endpoints.outgoing import OutgoingRequest, build_request
from llb.gateway.endpoints.registry import EndpointRegistry, Place
from llb.gateway.http.client import JSON_HEADER, BegunRequest, HttpClient
from llb.gateway.http.response import UpstreamResponse
from llb.gateway.http.upstream_errors import AnswerFailed, ConnectError, TransportError, UpstreamTimeout
from llb.gateway.inference_call import InferenceCall
from llb.gateway.spend.attempt_spend import AttemptSpend, FreeSpend, SpendControl
from llb.gateway.spend.billed_request import BilledRequest, read_billed_request
from llb.gateway.stream.keepalive import SSE_KEEPALIVE_INTERVAL_S, BodySink
from llb.gateway.stream.relay import (
    USUAL_TIMEOUTS,
    EventRelay,
    RelayResult,
    RelayTimeouts,
    is_event_stream,
    relay_response,
)
from llb.gateway.stream.usage_parser import Usage
from llb.policy.endpoints import dialects
from llb.policy.spend.price import FREE, ModelPrice
from llb.texts.coded_text import CodedText, with_code_of
from llb.wire import EndpointKind
from llb.wire.decoding import MAX_EVENT_LOOP_BYTES

CONNECT_TIMEOUT_S = 10.0
MAX_ERROR_BODY_BYTES = 64 * 1024
ERROR_BODY_TIMEOUT_S = 5.0
# A hostile endpoint may have any header.
_LIMIT_HEADER = re.compile(rb"[a-z-]{1,64}:[ -~]{0,128}")
_LIMIT_PREFIXES = (b"anthropic-ratelimit-", b"x-ratelimit-")
_VERSION_HEADER = b"anthropic-version"


class EndpointContext(Struct, frozen=True):
    """Parts that every exchange uses.

    `redact` removes keys from text; `ensure_listed` reads the list of the cloud again that a name belongs to.
    """

    registry: EndpointRegistry
    http_client: HttpClient
    redact: Callable[[str], str]
    ensure_listed: Callable[[str], Awaitable[None]]


class EndpointExchange:
    """One request to one endpoint, and its answer."""

    # It may have served anybody before.
    is_new: ClassVar = False
    wants_stream: ClassVar = True
    # Events of an endpoint are not counted as tokens.
    streamed_tokens: ClassVar = None

    def __init__(
        self, context: EndpointContext, spend: SpendControl, call: InferenceCall, place: Place
    ) -> None:
        self.place = place
        self.place_name = place.endpoint.name
        self.call = call
        # None while the request has not been sent.
        self.begun: BegunRequest | None = None
        self._context = context
        self._spend_control = spend
        # None for an unknown price.
        self._price: ModelPrice | None = None
        # None until the request is prepared.
        self._spend: AttemptSpend | FreeSpend | None = None
        self._outgoing = OutgoingRequest()
        self._translator: TranslatedAnswer | None = None
        # None until its answer is passed on.
        self._answer: EndpointAnswerSink | None = None
        self._sent_at = 0.0
        # None until the head of an answer has come.
        self._latency_ms: float | None = None
        # The request has been sent and no error status has come: the provider may bill it.
        self.may_be_billed = False
        # The head of a stream has come.
        self.is_stream = False

    async def prepare(self) -> None:
        """Build the request, and reserve its highest cost.

        Raises `InvalidRequest` if it cannot be translated, and `BudgetExceeded`.
        """
        build = partial(build_request, self.call, self.place.endpoint, self.place.served_as)
        is_small = len(self.call.body) <= MAX_EVENT_LOOP_BYTES
        outgoing = self._keep_outgoing(build() if is_small else await asyncio.to_thread(build))
        if self._is_free():
            return
        is_small = len(outgoing.body) <= MAX_EVENT_LOOP_BYTES
        self._reserve(self._read_bill() if is_small else await asyncio.to_thread(self._read_bill))

    def prepare_small(self) -> bool:
        """Like `prepare`, for a plain chat; False where the request is large, or the answer needs a task."""
        if self.place.endpoint.timeout_s < SSE_KEEPALIVE_INTERVAL_S:
            # Callbacks look at silent answers too rarely for it.
            return False
        outgoing = self._keep_outgoing(build_request(self.call, self.place.endpoint, self.place.served_as))
        if self._is_free():
            return True
        if len(outgoing.body) > MAX_EVENT_LOOP_BYTES:
            return False
        self._reserve(self._read_bill())
        return True

    def _is_free(self) -> bool:
        """Whether the endpoint bills nothing; otherwise `_reserve` has to be called."""
        place = self.place
        self._price = self._spend_control.price_of(place.endpoint, place.served_as)
        if self._price is not FREE:
            return False
        self._spend = FreeSpend(self.call.record)
        return True

    def _reserve(self, billed: BilledRequest) -> None:
        self._spend = self._spend_control.reserve(self.call, self.place.endpoint, self._price, billed)

    def _keep_outgoing(self, outgoing: OutgoingRequest) -> OutgoingRequest:
        self._outgoing = outgoing
        self.call.record.ignored_fields = outgoing.ignored
        return outgoing

    def _read_bill(self) -> BilledRequest:
        return read_billed_request(
            self._outgoing.path,
            self._outgoing.body,
            generates_text=self.call.operation.generates_text,
            context_length=self.place.context_length,
        )

    def begin(self) -> None:
        """Send the request that was built, if a connection is idle."""
        endpoint = self.place.endpoint
        self._sent_at = time.monotonic()
        self.begun = self._context.http_client.begin_request(
            endpoint.target,
            b"POST",
            self._outgoing.path.removeprefix("/v1").encode("ascii"),
            self._headers(),
            self._outgoing.body,
            connect_timeout_s=CONNECT_TIMEOUT_S,
            header_timeout_s=endpoint.timeout_s,
            on_sent=self._mark_sent,
        )

    def connect(self, on_done: Callable[[UpstreamResponse | None], None]) -> None:
        """Send the request of `begin` over a new connection; `on_done` gets its response, None for none."""
        begun = self.begun
        assert begun is not None  # noqa: S101  # `begin` was called
        begun.begin_connect(lambda: on_done(begun.response))

    async def open(self, silent_s: float) -> UpstreamResponse:
        """Return the response once its head has come; sends the request unless `begin` has.

        `silent_s` as in `BegunRequest.wait`. Raises the error of the endpoint: one of the request itself, or
        one after which another place may answer.
        """
        if self.begun is None:
            self.begin()
        assert self.begun is not None  # noqa: S101  # as above
        try:
            response = await self.begun.wait(silent_s)
            if response.status < 300:
                self._require_answer(response)
                return response
            self.may_be_billed = False
            try:
                body = await response.read(MAX_ERROR_BODY_BYTES, ERROR_BODY_TIMEOUT_S)
            finally:
                response.close()
        except ConnectError as failure:
            # A connection of the pool may have been stale.
            self.may_be_billed = False
            raise await self._explain_failure(failure) from failure
        except TransportError as failure:
            raise await self._explain_failure(failure) from failure
        raise self._read_error(response, body)

    def settle(self, result: RelayResult) -> Usage | None:
        """Book what an answer cost that has reached the client, whole or up to an error.

        Returns the counts by which the speed of the endpoint is measured; None where they say nothing.
        """
        assert self._spend is not None  # noqa: S101  # it was prepared
        if result.error is None:
            self._spend.settle(result.usage)
        elif result.stream:
            self._spend.settle_partial(result.usage, result.body_bytes)
        else:
            self._spend.settle_unknown()
        # A failure that is fast must not make an endpoint look fast.
        return None if result.error is not None else result.measure_usage(self.call.record.sent_at)

    def end_spend(self, *, received_bytes: int) -> None:
        """Book a cost that is still open, of a client that left or a request that failed; idempotent.

        The tokens generated until then are known only for a stream that has started.
        """
        if self._spend is None:
            return
        if not self.may_be_billed:
            self._spend.release()
        elif self.is_stream and received_bytes:
            self._spend.settle_partial(self._known_usage, received_bytes)
        else:
            self._spend.settle_unknown()

    def _mark_sent(self) -> None:
        self.may_be_billed = True

    def accept(self, response: UpstreamResponse) -> bool:
        """Note the head of an answer without an error; idempotent. False if it is not of the requested kind.

        A page of a proxy or a portal is no answer, and no browser must take one for a page of llb.
        """
        if self._latency_ms is None:
            self._latency_ms = (time.monotonic() - self._sent_at) * 1000
            self.may_be_billed = True
            self.is_stream = is_event_stream(response)
            self.call.record.limit_headers = self._limit_headers(response)
        return self.is_stream is self.call.stream and (self.is_stream or _may_be_json(response))

    @property
    def timeouts(self) -> RelayTimeouts:
        """How long the answer may be silent."""
        timeout_s = self.place.endpoint.timeout_s
        return RelayTimeouts(idle_s=min(USUAL_TIMEOUTS.idle_s, timeout_s), first_event_s=timeout_s)

    @property
    def body_sink(self) -> EndpointAnswerSink:
        """Sink that rewrites the answer, once `start_relay` was called."""
        assert self._answer is not None  # noqa: S101  # it is being passed on
        return self._answer

    def passes_stream(self, _response: UpstreamResponse) -> bool:
        """Whether the client gets a stream; known once the answer was accepted."""
        return self.is_stream

    @staticmethod
    def content_type_of(response: UpstreamResponse) -> bytes:
        """Return the content type of what the client gets, the same."""
        return response.content_type

    @staticmethod
    def complete_start(events: bytes) -> bytes:
        """Return the first events of a stream, the same."""
        return events

    def rewrite_events(self, events: bytes) -> bytes:
        """Return what the client gets of whole events. Raises `TransportError`."""
        return self.body_sink.rewrite_events(events)

    def rewrite_document(self, document: bytes, response: UpstreamResponse, sink: BodySink) -> bytes:
        """Return what the client gets of a whole document. Raises `TransportError`."""
        self.start_relay(response, sink)
        return self.body_sink.rewrite_document(document)

    def start_relay(self, response: UpstreamResponse, sink: BodySink) -> EventRelay | None:
        """Begin to pass an accepted answer on; returns the relay of a stream, None for a document."""
        if self._outgoing.make_stream is not None and self._outgoing.translate_document is not None:
            self._translator = TranslatedAnswer(
                self._outgoing.make_stream(), self._outgoing.translate_document, self._context.redact
            )
        translator = self._translator
        self._answer = EndpointAnswerSink(
            sink,
            served_as=self.place.served_as,
            model_id=self.call.model.id,
            is_stream=self.is_stream,
            drops_usage=self._outgoing.adds_usage,
            translate_document=None if translator is None else translator.translate_document,
        )
        if not self.is_stream:
            return None
        opening_filter = OpeningFilter(self.place.endpoint.name, self._context.redact)
        return EventRelay(response, opening_filter=opening_filter, translator=translator)

    def _require_answer(self, response: UpstreamResponse) -> None:
        """Raise `EndpointFailed` for a response that is not of the requested kind."""
        if self.accept(response):
            return
        response.close()
        wanted = "a stream" if self.call.stream else "a document"
        failed = self._failed(f"it answers a request for {wanted} with something else")
        self._context.registry.record_failure(self.place.endpoint, failed.message, is_unreachable=False)
        raise failed

    async def relay(
        self,
        response: UpstreamResponse,
        events: EventRelay | None,
        *,
        silent_s: float,
        on_client_left: Callable[[RelayResult], None],
    ) -> RelayResult:
        """Pass the answer on, or the rest of it, once `start_relay` has returned `events`.

        Raises `EndpointFailed` or `EndpointTimeout` while nothing has been written. For `silent_s` and
        `on_client_left` see `relay_response`.
        """
        endpoint, call, answer = self.place.endpoint, self.call, self.body_sink
        try:
            result = await relay_response(
                response,
                answer,
                begun=events,
                silent_s=silent_s,
                timeouts=self.timeouts,
                format_error_event=call.format_error_event,
                explain_failure=self._explain_failure,
                on_client_left=lambda left: on_client_left(self._with_usage(left)),
                on_event_cut=call.record.note_cut_event,
            )
            if result.error is None:
                await answer.flush()
        except AnswerFailed as failure:
            # A document that cannot be translated; nothing was written.
            raise await self._explain_failure(failure) from failure
        except errors.EndpointFailed as error:
            if not isinstance(error.__cause__, TransportError):
                self._context.registry.record_failure(endpoint, error.message, is_unreachable=False)
            raise
        return self.complete(result)

    def complete(self, result: RelayResult) -> RelayResult:
        """Return the outcome of an answer with its counts; a success is one of the endpoint."""
        if result.error is None and self._latency_ms is not None:
            self._context.registry.record_success(self.place.endpoint, self._latency_ms)
        return self._with_usage(result)

    def report_failure(self, _error: errors.LlbError) -> None:
        """Book what a request may cost that was refused or has failed."""
        self.end_spend(received_bytes=0)

    def release(self) -> None:
        """End the request, and book what is still open. Nothing here awaits or fails."""
        if self.begun is not None:
            self.begun.close()
        self.end_spend(received_bytes=self.call.record.received_bytes)

    def _limit_headers(self, response: UpstreamResponse) -> dict[str, str]:
        """Rate limits of the provider, for a client whose key has none of llb's."""
        if self.call.record.principal.allowances:
            return {}
        return {
            name.decode("ascii"): self._context.redact(value.decode("ascii"))
            for name, value in response.headers
            if name.startswith(_LIMIT_PREFIXES) and _LIMIT_HEADER.fullmatch(name + b":" + value)
        }

    def _with_usage(self, result: RelayResult) -> RelayResult:
        """Return `result` with the counts that the translator has read, where it has."""
        if self._translator is None or self._translator.usage.prompt_tokens is None:
            return result
        read, translated = result.usage, self._translator.usage
        media = read.media.filled_from(translated.media)
        return replace(result, usage=replace(translated, cost_usd=read.cost_usd, media=media))

    @property
    def _known_usage(self) -> Usage:
        """Counts of an answer so far, as far as a translator has read them."""
        return Usage() if self._translator is None else self._translator.usage

    def _headers(self) -> tuple[tuple[bytes, bytes], ...]:
        call = self.call
        headers: tuple[tuple[bytes, bytes], ...] = (JSON_HEADER,)
        if self._outgoing.path.startswith(dialects.MESSAGES):
            headers += call.dialect_headers
            if not any(name == _VERSION_HEADER for name, _ in call.dialect_headers):
                headers += ((_VERSION_HEADER, ANTHROPIC_VERSION),)
        if self.place.endpoint.kind is EndpointKind.LLB:
            via = f"{call.via}, 1.1 {self._context.registry.via_name}".removeprefix(", ")
            headers += ((b"via", via.encode("ascii")),)
        # The trace of a caller is no business of a cloud.
        return headers if self.place.is_cloud else (*headers, *call.record.trace_headers)

    def _read_error(self, response: UpstreamResponse, body: bytes) -> errors.LlbError:
        endpoint, registry = self.place.endpoint, self._context.registry
        found = read_error(endpoint.name, response.status, response.headers, body, self._context.redact)
        error = found.error
        if endpoint.kind is EndpointKind.LLB and response.status == 503:
            # This concerns one model only: it is loading there, or its queue is full.
            return error
        match found.effect:
            case Effect.FAILURE:
                registry.record_failure(endpoint, error.message, is_unreachable=False)
            case Effect.RATE_LIMIT:
                registry.record_rate_limit(endpoint, error.message, found.retry_after_s)
            case Effect.REFUSED_KEY:
                registry.record_refused_key(endpoint, error.text)
            case Effect.NONE:
                registry.record_success(endpoint, (time.monotonic() - self._sent_at) * 1000)
        return error

    async def _explain_failure(self, failure: TransportError) -> errors.LlbError:
        """Return the error for the client, and record the failure."""
        endpoint = self.place.endpoint
        message = str(failure) if isinstance(failure, AnswerFailed) else describe_failure(failure)
        self._context.registry.record_failure(
            endpoint, message, is_unreachable=isinstance(failure, ConnectError)
        )
        is_timeout = isinstance(failure, UpstreamTimeout) or (
            isinstance(failure, ConnectError) and failure.is_timeout
        )
        if is_timeout:
            return errors.EndpointTimeout(
                CodedText(
                    "endpoint_timeout",
                    "Endpoint '{endpoint}' did not answer in time",
                    endpoint=endpoint.name,
                )
            )
        return self._failed(with_code_of(message, message[0].lower() + message[1:]))

    def _failed(self, reason: str) -> errors.EndpointFailed:
        return errors.EndpointFailed(
            CodedText(
                "endpoint_failed_because",
                "Endpoint '{endpoint}' failed: {cause}",
                endpoint=self.place.endpoint.name,
                cause=reason,
            )
        )


def _may_be_json(response: UpstreamResponse) -> bool:
    """Whether a document may be JSON; some programs send no content type."""
    return not response.content_type or b"json" in response.content_type.lower()
