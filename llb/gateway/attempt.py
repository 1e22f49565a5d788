"""One attempt to have a request answered by one node or endpoint: its slot, its exchange, its outcome."""

from __future__ import annotations

import time

from msgspec.structs import replace

from llb import errors
from llb.gateway.admission.controller import SlotReservation
from llb.gateway.attempt_context import AttemptContext
from llb.gateway.endpoints.exchange import EndpointExchange
from llb.gateway.engine_exchange import EngineExchange
from llb.gateway.http.response import UpstreamResponse
from llb.gateway.inference_call import ClientSink, DirectSink, InferenceCall
from llb.gateway.prompt_owners import OwnPrompt
from llb.gateway.stream.cached_tokens import LimitedSink, told_tokens
from llb.gateway.stream.keepalive import BodySink
from llb.gateway.stream.relay import EventRelay, RelayResult
from llb.gateway.stream.usage_parser import Usage
from llb.policy.routing import RequestEstimate

Exchange = EngineExchange | EndpointExchange


class Attempt:
    """Reserves a slot, has an exchange ask the place that it belongs to, and records the outcome.

    Flat fields instead of a stack of context managers, which took a tenth of a request's time.
    """

    __slots__ = (
        "_call",
        "_context",
        "_estimate",
        "_events",
        "_limited",
        "_own_prompt",
        "_reservation",
        "exchange",
        "place_id",
        "silent_s",
    )

    def __init__(self, context: AttemptContext, call: InferenceCall, estimate: RequestEstimate) -> None:
        # Id of the node or the endpoint, once there is one.
        self.place_id: str | None = None
        # For how long the answer had been silent when a task took it over.
        self.silent_s = 0.0
        self._context = context
        self._call = call
        self._estimate = estimate
        # None for a request that takes no slot.
        self._reservation: SlotReservation | None = None
        # With the place, once there is one.
        self.exchange: Exchange
        # None for an engine that has served one owner only.
        self._own_prompt: OwnPrompt | None = None
        # How the answer is passed on as a stream, and hides cached tokens; set when it is passed on.
        self._events: EventRelay | None = None
        self._limited: LimitedSink | None = None

    # --- request ---

    def begin(self, excluded: frozenset[str]) -> bool:
        """Do what `open` does before it waits for the answer; `open` continues.

        False where something has to be waited for: then the attempt has to be released, and another one
        opened. Raises as `open` does.
        """
        call, context, record = self._call, self._context, self._call.record
        principal = record.principal
        reservation = self._reservation = context.admission.reserve_free_slot(
            call.model.id,
            key_id=principal.root_id,
            owner_id=principal.account_id,
            request=self._estimate,
            exclude=excluded,
        )
        if reservation is None:
            return False
        exchange = self._enter(reservation.node_id)
        if not exchange.prepare_small():
            return False
        self._own_prompt = context.prompt_owners.begin_small_request(
            principal.owner_id,
            reservation.node_id,
            call.model.id,
            call.body,
            call.head,
            is_new=exchange.is_new,
        )
        record.sent_at = time.monotonic()
        exchange.begin()
        return True

    async def open(self, excluded: frozenset[str]) -> UpstreamResponse:
        """Reserve a slot and send the request; returns once the head of an answer has come.

        Raises what the place or the route to it says, and `NoNodeAvailable`, `QueueFull` or `QueueTimeout`
        while no place outside `excluded` can be used.
        """
        if self.place_id is None:
            call, record = self._call, self._call.record
            place_id = await self._reserve(excluded)
            placed_at = time.monotonic()
            exchange = self._enter(place_id)
            await exchange.prepare()
            if call.operation.generates_text:
                self._own_prompt = await self._context.prompt_owners.begin_request(
                    record.principal.owner_id,
                    place_id,
                    call.model.id,
                    exchange.call.body,
                    call.head,
                    is_new=exchange.is_new,
                )
            record.sent_at = time.monotonic()
            record.load_s += record.sent_at - placed_at
        return await self.exchange.open(self.silent_s)

    async def _reserve(self, excluded: frozenset[str]) -> str:
        """Id of the place that the request goes to; with a slot reserved there if the request needs one."""
        call, admission = self._call, self._context.admission
        queued_at = time.monotonic()
        try:
            if not call.operation.needs_slot:
                return admission.select_node_without_slot(call.model.id, excluded)
            self._reservation = await admission.reserve_slot(
                call.model.id,
                key_id=call.record.principal.root_id,
                owner_id=call.record.principal.account_id,
                request=self._estimate,
                exclude=excluded,
                timeout_s=call.queue_timeout_s,
                body_bytes=len(call.body),
            )
            return self._reservation.node_id
        finally:
            call.record.queued_s += time.monotonic() - queued_at

    def _enter(self, place_id: str) -> Exchange:
        """Note the place that is asked; returns the exchange with it."""
        context, call, record = self._context, self._call, self._call.record
        place = context.endpoints.registry.places_of(call.model.id).get(place_id)
        exchange: Exchange
        if place is not None:
            record.node_id, record.endpoint_id = None, place_id
            exchange = EndpointExchange(context.endpoints, context.spend, call, place)
        else:
            record.node_id = place_id
            if record.endpoint_id is not None:
                # Of an attempt before.
                record.endpoint_id = None
            exchange = EngineExchange(context, call, context.view.nodes[place_id], self._estimate)
        self.place_id, self.exchange = place_id, exchange
        context.traffic.begin_request(place_id)
        return exchange

    # --- answer ---

    def start_relay(self, response: UpstreamResponse, sink: ClientSink) -> EventRelay | None:
        """Begin to pass the answer on; returns the relay of a stream, None for a document."""
        exchange, own_prompt = self.exchange, self._own_prompt
        target = sink if own_prompt is None else self._limit(sink, own_prompt, response)
        events = self._events = exchange.start_relay(response, target)
        sink.start_response(
            response.status,
            exchange.content_type_of(response),
            node_name=exchange.place_name,
            queued_ms=0 if self._reservation is None else self._reservation.queued_ms,
        )
        return events

    def _limit(self, sink: ClientSink, own_prompt: OwnPrompt, response: UpstreamResponse) -> BodySink:
        """Return a sink that hides cached tokens which the caller's own prompts do not explain."""
        is_stream = self.exchange.passes_stream(response)
        self._limited = LimitedSink(sink, own_prompt.own_tokens, is_stream=is_stream)
        return self._limited

    def write_document(self, document: bytes, response: UpstreamResponse, sink: DirectSink) -> None:
        """Write a whole document without a wait: `start_relay` and `write_now` in one.

        Raises `TransportError` for a document of an endpoint that cannot be translated, with nothing written.
        """
        exchange, own_prompt = self.exchange, self._own_prompt
        target = sink if own_prompt is None else self._limit(sink, own_prompt, response)
        sink.start_response(
            response.status,
            response.content_type,
            node_name=exchange.place_name,
            queued_ms=0 if self._reservation is None else self._reservation.queued_ms,
        )
        document = exchange.rewrite_document(document, response, target)
        sink.write_now(document if self._limited is None else self._limited.limit(document), last=True)

    def write_now(self, data: bytes, sink: DirectSink, *, last: bool = False) -> None:
        """Write whole events without a wait; `start_relay` was called. Raises `TransportError`."""
        data = self.exchange.rewrite_events(data)
        if data or last:
            sink.write_now(data if self._limited is None else self._limited.limit(data), last=last)

    async def relay(self, response: UpstreamResponse, sink: ClientSink) -> RelayResult:
        """Pass the answer on, or what is left of it, and record its outcome."""
        if self._events is None:
            self.start_relay(response, sink)
        try:
            result = await self.exchange.relay(
                response, self._events, silent_s=self.silent_s, on_client_left=self.record_result
            )
            if self._limited is not None and result.error is None:
                await self._limited.flush()
        finally:
            self.note_received(response)
        self.record_result(result)
        return result

    # --- outcome ---

    def finish(self, response: UpstreamResponse, result: RelayResult) -> None:
        """Record the outcome of an answer that was passed on whole without a wait."""
        self.note_received(response)
        self.record_result(self.exchange.complete(result))

    def note_received(self, response: UpstreamResponse) -> None:
        """Record when the answer began, and its size so far."""
        record = self._call.record
        record.first_byte_at = response.first_byte_at
        record.received_bytes = response.received_bytes

    def record_result(self, result: RelayResult) -> None:
        """Record the outcome of an answer that has reached the client, whole or up to an error."""
        call, context, record, exchange = self._call, self._context, self._call.record, self.exchange
        place_id = self.place_id
        assert place_id is not None  # noqa: S101  # it has answered
        measured = exchange.settle(result)
        usage, error, model_id = result.usage, result.error, call.model.id
        record.usage = usage if self._own_prompt is None else self._tell_usage(usage, self._own_prompt)
        record.is_answered = error is None
        if error is not None or record.error_code is not None:
            # Setting a field takes three times as long as reading it.
            record.error_code = None if error is None else error.code
        tokens, streamed = usage.completion_tokens, exchange.streamed_tokens
        # The engine's own count replaces that of the events.
        counted = 0 if streamed is None else streamed.count
        context.traffic.record_answer(place_id, model_id, 0 if tokens is None else tokens - counted)
        if self._reservation is not None and measured is not None:
            context.performance.record_completion(
                place_id,
                model_id,
                self._estimate,
                measured,
                mean_busy_slots=self._reservation.mean_busy_slots,
            )

    def _tell_usage(self, usage: Usage, own_prompt: OwnPrompt) -> Usage:
        """Return the counts for the history of the request: cached tokens as the client was told."""
        if usage.prompt_tokens is None:
            return usage
        self._context.prompt_owners.end_request(own_prompt, usage.prompt_tokens)
        return replace(usage, cached_tokens=told_tokens(usage.cached_tokens or 0, own_prompt.own_tokens))

    def report_failure(self, error: errors.LlbError) -> None:
        """Have the place note that it has failed this request."""
        self.exchange.report_failure(error)

    def release(self) -> None:
        """Give back what was taken, in the opposite order. Nothing here awaits or fails."""
        # The relay holds the tail of the answer, which nothing needs any more.
        self._events = None
        if self.place_id is not None:
            self.exchange.release()
            self._context.traffic.end_request(self.place_id)
        if self._reservation is not None:
            self._reservation.release()
