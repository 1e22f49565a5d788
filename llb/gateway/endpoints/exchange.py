"""Exchange with an endpoint: one request, its answer, and what both say about the health of the endpoint."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable

from msgspec import Struct
from msgspec.structs import replace

from llb import errors
from llb.gateway.endpoints.answer import MAX_ANSWER_BYTES, EndpointAnswerSink, OpeningFilter
from llb.gateway.endpoints.answer_errors import Effect, read_error
from llb.gateway.endpoints.checks import describe_failure
from llb.gateway.endpoints.endpoint import ANTHROPIC_VERSION
from llb.gateway.endpoints.outgoing import OutgoingRequest, build_request
from llb.gateway.endpoints.registry import EndpointRegistry, Place
from llb.gateway.http.client import JSON_HEADER, HttpClient
from llb.gateway.http.engine_errors import safe_message
from llb.gateway.http.response import UpstreamResponse
from llb.gateway.http.upstream_errors import AnswerFailed, ConnectError, TransportError, UpstreamTimeout
from llb.gateway.inference_call import InferenceCall
from llb.gateway.stream.keepalive import BodySink
from llb.gateway.stream.relay import (
    USUAL_TIMEOUTS,
    EventRelay,
    RelayResult,
    RelayTimeouts,
    is_event_stream,
    relay_response,
)
from llb.gateway.stream.usage_parser import Usage
from llb.gateway.translation.answer_stream import AnswerStream
from llb.gateway.translation.provider_errors import ProviderFailure
from llb.gateway.translation.token_usage import TokenUsage
from llb.policy.endpoints import dialects
from llb.texts.coded_text import CodedText, respelled
from llb.wire import EndpointKind
from llb.wire.decoding import MAX_EVENT_LOOP_BYTES

CONNECT_TIMEOUT_S = 10.0
MAX_ERROR_BODY_BYTES = 64 * 1024
ERROR_BODY_TIMEOUT_S = 5.0
# Events before the first content of an answer that is translated, such as pings.
MAX_OPENING_BYTES = 1024 * 1024
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
    """One request to one endpoint."""

    def __init__(self, context: EndpointContext, call: InferenceCall, place: Place) -> None:
        self.place = place
        self._context = context
        self._call = call
        self._outgoing = OutgoingRequest()
        self._translator: TranslatedAnswer | None = None
        self._sent_at = 0.0
        # The request has been sent and no error status has come: the provider may bill it.
        self.may_be_billed = False
        # The head of a stream has come.
        self.is_stream = False

    async def build(self) -> OutgoingRequest:
        """Build the request. Raises `InvalidRequest` for what cannot be translated."""
        endpoint, call = self.place.endpoint, self._call
        if len(call.body) > MAX_EVENT_LOOP_BYTES:
            self._outgoing = await asyncio.to_thread(build_request, call, endpoint, self.place.served_as)
        else:
            self._outgoing = build_request(call, endpoint, self.place.served_as)
        call.record.ignored_fields = self._outgoing.ignored
        return self._outgoing

    async def open(self) -> UpstreamResponse:
        """Send the request that was built, and return the response once its head has come.

        Raises the error of the endpoint: one of the request itself, or one after which another place may
        answer.
        """
        endpoint, call = self.place.endpoint, self._call
        self._sent_at = time.monotonic()
        try:
            response = await self._context.http_client.request(
                endpoint.target,
                b"POST",
                self._outgoing.path.removeprefix("/v1").encode("ascii"),
                self._headers(),
                self._outgoing.body,
                connect_timeout_s=CONNECT_TIMEOUT_S,
                header_timeout_s=endpoint.timeout_s,
                on_sent=self._mark_sent,
            )
            self.may_be_billed = response.status < 300
            if self.may_be_billed:
                self.is_stream = is_event_stream(response)
                call.record.limit_headers = self._limit_headers(response)
                return response
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

    def _mark_sent(self) -> None:
        self.may_be_billed = True

    async def relay(
        self, response: UpstreamResponse, sink: BodySink, *, on_client_left: Callable[[RelayResult], None]
    ) -> RelayResult:
        """Pass the answer on. Raises `EndpointFailed` or `EndpointTimeout` while nothing has been written.

        For `on_client_left` see `relay_response`.
        """
        endpoint, call = self.place.endpoint, self._call
        latency_ms = (time.monotonic() - self._sent_at) * 1000
        is_stream = is_event_stream(response)
        if is_stream is not call.stream or not (is_stream or _may_be_json(response)):
            # A page of a proxy or a portal is no answer, and no browser must take one for a page of llb.
            response.close()
            wanted = "a stream" if call.stream else "a document"
            failed = self._failed(f"it answers a request for {wanted} with something else")
            self._context.registry.record_failure(endpoint, failed.message, is_unreachable=False)
            raise failed
        if self._outgoing.make_stream is not None and self._outgoing.translate_document is not None:
            self._translator = TranslatedAnswer(
                self._outgoing.make_stream(), self._outgoing.translate_document, self._context.redact
            )
        translator = self._translator
        answer = EndpointAnswerSink(
            sink,
            served_as=self.place.served_as,
            model_id=call.model.id,
            is_stream=is_stream,
            drops_usage=self._outgoing.adds_usage,
            translate_document=None if translator is None else translator.translate_document,
        )
        events = None
        if is_stream:
            opening_filter = OpeningFilter(endpoint.name, self._context.redact)
            events = EventRelay(response, opening_filter=opening_filter, translator=translator)
        try:
            result = await relay_response(
                response,
                answer,
                begun=events,
                timeouts=RelayTimeouts(
                    idle_s=min(USUAL_TIMEOUTS.idle_s, endpoint.timeout_s), first_event_s=endpoint.timeout_s
                ),
                format_error_event=call.format_error_event,
                explain_failure=self._explain_failure,
                on_client_left=lambda left: on_client_left(self._with_usage(left)),
                on_event_cut=call.record.note_cut_event,
            )
            if result.error is None:
                await answer.flush()
            result = self._with_usage(result)
        except AnswerFailed as failure:
            # A document that cannot be translated; nothing was written.
            raise await self._explain_failure(failure) from failure
        except errors.EndpointFailed as error:
            if not isinstance(error.__cause__, TransportError):
                self._context.registry.record_failure(endpoint, error.message, is_unreachable=False)
            raise
        if result.error is None:
            self._context.registry.record_success(endpoint, latency_ms)
        return result

    def _limit_headers(self, response: UpstreamResponse) -> dict[str, str]:
        """Rate limits of the provider, for a client whose key has none of llb's."""
        if self._call.record.principal.allowances:
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
    def known_usage(self) -> Usage:
        """Counts of an answer so far, as far as a translator has read them."""
        return Usage() if self._translator is None else self._translator.usage

    def _headers(self) -> tuple[tuple[bytes, bytes], ...]:
        call = self._call
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
        return self._failed(respelled(message, message[0].lower() + message[1:]))

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
    """Whether a document may be what its route has; some programs do not say what they send."""
    return not response.content_type or b"json" in response.content_type.lower()


class TranslatedAnswer:
    """Translator of one answer, with failures like those of the exchange."""

    def __init__(
        self,
        stream: AnswerStream,
        translate: Callable[[bytes], tuple[bytes, TokenUsage]],
        redact: Callable[[str], str],
    ) -> None:
        self._stream = stream
        self._redact = redact
        self._translate = translate
        self._document_usage: TokenUsage | None = None
        self._received_bytes = 0

    @property
    def usage(self) -> Usage:
        return (self._document_usage or self._stream.usage).recorded

    def feed(self, data: bytes) -> bytes:
        self._received_bytes += len(data)
        most = MAX_ANSWER_BYTES if self._stream.has_content else MAX_OPENING_BYTES
        if self._received_bytes > most:
            raise AnswerFailed("an answer without " + ("an end" if self._stream.has_content else "content"))
        try:
            return self._stream.feed(data)
        except ProviderFailure as failure:
            raise self._answer_failed(failure) from failure

    def finish(self) -> bytes:
        try:
            return self._stream.finish()
        except ProviderFailure as failure:
            raise self._answer_failed(failure) from failure

    def raise_failure(self) -> None:
        """Raise a failure that came after what `feed` returned last."""
        if self._stream.failure is not None:
            raise self._answer_failed(self._stream.failure)

    def translate_document(self, body: bytes) -> bytes:
        try:
            document, self._document_usage = self._translate(body)
        except ProviderFailure as failure:
            raise self._answer_failed(failure) from failure
        return document

    def _answer_failed(self, failure: ProviderFailure) -> AnswerFailed:
        return AnswerFailed(safe_message(failure.message, self._redact) or "no reason is given")
