"""Dispatcher of inference requests: deadline, rate limit, failover while the client has received nothing."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from contextlib import suppress

from msgspec.structs import replace

from llb import errors
from llb.accounts.principal_watch import PrincipalWatch
from llb.gateway.admission.crash_quarantine import Quarantine
from llb.gateway.admission.deadlines import DeadlineTimer
from llb.gateway.admission.rate_limiter import ApiKeyRateLimiter, RateLimitHold, TokenReservation
from llb.gateway.attempt import Attempt
from llb.gateway.attempt_context import AttemptContext
from llb.gateway.choices import (
    COMPLETION_PATH,
    ChoicePlan,
    count_choices,
    count_prompts,
    merge_records,
    new_part_record,
    read_choice_plan,
)
from llb.gateway.engine_exchange import MAX_REQUEST_DURATION_S
from llb.gateway.engine_routes import Operation
from llb.gateway.http.response import UpstreamResponse
from llb.gateway.http.upstream_errors import TransportError
from llb.gateway.inference_call import ClientSink, InferenceCall
from llb.gateway.input_batches import BatchAnswer, InputBatch, InputList, read_input_list
from llb.gateway.readiness import ModelReadiness
from llb.gateway.routing.affinity_key import compute_affinity_key, estimate_prompt_tokens
from llb.gateway.routing.place_filter import PlaceFilter, RefusedPlaces
from llb.gateway.running_call import RunningCall
from llb.gateway.spill.dispatch import dispatch_with_spill
from llb.gateway.stream.choice_merger import ChoiceMerger
from llb.gateway.stream.keepalive import SseKeepalive
from llb.gateway.stream.relay import EVENT_END, RelayResult
from llb.gateway.stream.usage_parser import Usage
from llb.policy.retry import NODE_SPECIFIC_ERRORS, RetryState
from llb.policy.routing import RequestEstimate

log = logging.getLogger(__name__)

# Maximum wait of a crash suspect for the other suspects.
SUSPECT_WAIT_S = 60.0
# Maximum wait for a client that does not read.
ERROR_WRITE_TIMEOUT_S = 5.0


class Dispatcher:
    """Sends calls to engines. Every dialect passes here, and only attempts made here reserve slots."""

    def __init__(
        self, context: AttemptContext, rate_limiter: ApiKeyRateLimiter, principal_watch: PrincipalWatch
    ) -> None:
        self.readiness = ModelReadiness(
            context.view, context.admission, context.endpoints, context.spill_book
        )
        self.performance = context.performance
        self._context = context
        self._place_filter = PlaceFilter(context.endpoints.registry)
        self._rate_limiter = rate_limiter
        self._quarantine = Quarantine()
        self._suspect_lock = asyncio.Lock()
        self._principal_watch = principal_watch
        self._idle_event = asyncio.Event()
        self._idle_event.set()
        # Same as the state of the event, which each request would query twice.
        self._is_idle = True
        self._deadline_timer = DeadlineTimer(MAX_REQUEST_DURATION_S)

    async def dispatch(self, call: InferenceCall, sink: ClientSink) -> RelayResult | None:
        """Answer `call` into `sink`.

        Raises `LlbError` while the client has received nothing. Returns None for a stream that ended with an
        error event, because keep-alive comments had begun it or its key was revoked.
        """
        return await self.resume(self.begin(call, sink))

    def begin(self, call: InferenceCall, sink: ClientSink) -> RunningCall:
        """Begin to answer `call`; `resume` or `finish_directly` ends it."""
        if self._is_idle:
            self._is_idle = False
            self._idle_event.clear()
        running = RunningCall(call, sink)
        self._deadline_timer.add(running)
        return self._principal_watch.watch(running, call.record.principal)

    def send_directly(self, running: RunningCall) -> bool:
        """Send the request of an ordinary call, if that needs no wait.

        False if `resume` has to do it; errors are raised there too.
        """
        call = running.call
        context, model = self._context, call.model
        if not call.fits_any_template or context.spill_book.rules_of(model.id):
            return False
        try:
            self._quarantine.check(model.id, call.record.principal, call.body)
            if call.record.principal.allowances:
                running.rate_limit = self._rate_limited(call)
                running.rate_limit.begin()
            attempt = Attempt(context, call, self._estimate_request(call))
            try:
                is_sent = attempt.begin(self._place_filter.refused_places(call).ids)
            except BaseException:
                attempt.release()
                raise
        except (errors.LlbError, TransportError):
            return False
        if not is_sent:
            attempt.release()
            return False
        running.attempt = attempt
        return True

    def finish_directly(self, running: RunningCall) -> None:
        """End a call that callbacks have answered."""
        attempt, running.attempt = running.attempt, None
        assert attempt is not None  # noqa: S101  # it has answered
        self._quarantine.record_success(running.call.model.id, running.call.body)
        attempt.release()
        self._end(running)

    async def resume(self, running: RunningCall) -> RelayResult | None:
        """Answer the rest of a call; returns and raises as `dispatch`."""
        task = asyncio.current_task()
        # Only tasks run coroutines here.
        assert task is not None  # noqa: S101
        running.hand_over(task.cancel)
        call, sink = running.call, running.sink
        if running.is_interrupted:
            # It is cancelled at its first wait.
            task.cancel()
        try:
            if running.attempt is None:
                self._quarantine.check(call.model.id, call.record.principal, call.body)
            if not call.record.principal.allowances:
                return await self._dispatch_to_models(running)
            with running.rate_limit or self._rate_limited(call):
                return await self._dispatch_to_models(running)
        except asyncio.CancelledError:
            error: errors.LlbError | None = running.error
            if error is None and running.is_expired:
                error = errors.EngineTimeout("The answer took longer than a request may take")
            if error is None or task.uncancel():
                # The task was cancelled by another part as well.
                raise
            return await self._report_error(call, sink, error)
        except errors.LlbError as error:
            return await self._report_error(call, sink, error)
        finally:
            self._end(running)

    def _end(self, running: RunningCall) -> None:
        if running.rate_limit is not None:
            # A call may have ended between `begin` and `resume`.
            running.rate_limit.end()
        self._principal_watch.end(running)
        self._deadline_timer.cancel_deadline(running)
        # Breaks a reference cycle, so that the call is freed now.
        running.hand_over(None)
        if not self._context.traffic.active_total:
            self._is_idle = True
            self._idle_event.set()

    async def drain(self, timeout_s: float) -> None:
        """Take no new requests and let running answers end for `timeout_s`."""
        self._context.admission.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle_event.wait()

    async def close(self) -> None:
        self._context.admission.close()
        self._deadline_timer.close()
        await self._context.http_client.close()

    def _dispatch_to_models(self, running: RunningCall) -> Awaitable[RelayResult]:
        """Answer `call` with its model, or else with the models that spill rules name.

        One model answers the whole request, because vectors of two models cannot be compared.
        """
        call, sink = running.call, running.sink
        if running.attempt is not None:
            return self._dispatch_with_failover(call, sink, running)
        if not self._context.spill_book.rules_of(call.model.id):
            return self._dispatch_inputs(call, sink)
        return dispatch_with_spill(
            self._context.spill_book,
            self.readiness,
            call,
            lambda target: self._dispatch_inputs(target, sink),
        )

    def _dispatch_inputs(self, call: InferenceCall, sink: ClientSink) -> Awaitable[RelayResult]:
        """Answer a request; one with a list of inputs batch by batch, each in its turn.

        An endpoint gets the whole request: it may have choices and dimensions of its own.
        """
        if not call.model.is_external:
            if call.operation in (Operation.EMBEDDINGS, Operation.RERANKING):
                inputs = read_input_list(call, self.readiness.max_context_length(call.model))
                if inputs is not None:
                    return self._dispatch_batches(call, sink, inputs)
            plan = read_choice_plan(call)
            if plan is not None:
                return self._dispatch_choices(call, sink, plan)
        return self._dispatch_with_failover(call, sink)

    async def _dispatch_batches(
        self, call: InferenceCall, sink: ClientSink, inputs: InputList
    ) -> RelayResult:
        queued_ms, usage = 0, Usage()
        for batch in inputs.batches():
            for part in await self._dispatch_batch(call, inputs, batch):
                queued_ms += part.queued_ms
                usage = usage.plus(part.usage)
        document = inputs.document()
        call.record.usage = usage
        sink.start_response(200, part.content_type, node_name=part.node_name, queued_ms=queued_ms)
        await sink.write(document, last=True)
        return RelayResult(
            200, False, usage, len(document), call.record.first_byte_at, time.monotonic(), None
        )

    async def _dispatch_choices(self, call: InferenceCall, sink: ClientSink, plan: ChoicePlan) -> RelayResult:
        """Generate several choices concurrently, each in a slot of its own, and merge them."""
        with call.hold_copies(plan.parallel_count(call.body) * plan.copy_bytes(call.body)):
            return await self._generate_choices(call, sink, plan)

    async def _generate_choices(self, call: InferenceCall, sink: ClientSink, plan: ChoicePlan) -> RelayResult:
        merger = ChoiceMerger(sink, plan.choices, best=plan.best, keeps_logprobs=plan.keeps_logprobs)
        records = [new_part_record(call.record) for _ in plan.choices]
        permits = asyncio.Semaphore(plan.parallel_count(call.body))

        async def generate(index: int) -> None:
            choice_sink = merger.sink_of(index)
            async with permits:
                body = await plan.copy_body(call.body, index)
                part = replace(call, record=records[index], body=body)
                self._quarantine.check(part.model.id, part.record.principal, part.body)
                result = await self._dispatch_with_failover(part, choice_sink)
            if result.error is not None:
                raise result.error
            if not result.stream:
                merger.add_document(index, choice_sink.document)

        document = b""
        failure: errors.LlbError | None = None
        try:
            async with asyncio.TaskGroup() as group:
                for index in range(len(plan.choices)):
                    group.create_task(generate(index))
            if call.stream:
                await merger.finish_stream()
            else:
                document = await merger.finish_document()
        except ExceptionGroup as failures:
            error = failures.exceptions[0]
            if not (merger.has_events and isinstance(error, errors.LlbError)):
                raise error from None
            failure = error
        finally:
            merge_records(call.record, records, plan.choices)
        if failure is not None:
            # The client has a part of the answer: no other model can continue it.
            await self._report_error(call, sink, failure)
        usage, now = call.record.usage, time.monotonic()
        return RelayResult(200, call.stream, usage, len(document), call.record.first_byte_at, now, failure)

    async def _dispatch_batch(
        self, call: InferenceCall, inputs: InputList, batch: InputBatch
    ) -> list[BatchAnswer]:
        """Add the answer to one batch to `inputs`. Raises an error about an input with its index."""
        answer = BatchAnswer()
        part = replace(call, body=inputs.body_of(batch))
        self._quarantine.check(call.model.id, call.record.principal, part.body)
        try:
            result = await self._dispatch_with_failover(part, answer)
            if result.error is not None:
                raise result.error
        except errors.InvalidRequest as error:
            if isinstance(error, errors.RequestCrashesEngine):
                raise
            if len(batch.items) == 1:
                shorter = inputs.shorten(batch, error)
                if shorter is None:
                    raise inputs.error_of(batch, error) from None
                return await self._dispatch_batch(call, inputs, shorter)
            # Find the input that the error is about.
            return [
                answer
                for single in batch.split()
                for answer in await self._dispatch_batch(call, inputs, single)
            ]
        answer.usage = result.usage
        inputs.add_answer(batch, answer.body)
        return [answer]

    async def _dispatch_with_failover(
        self, call: InferenceCall, sink: ClientSink, running: RunningCall | None = None
    ) -> RelayResult:
        """Try one node after another, by `policy.retry`, until one answers or none is left.

        The attempt of a `running` call is the first.
        """
        begun = None
        if running is not None:
            begun, running.attempt = running.attempt, None
        estimate = self._estimate_request(call)
        refused = self._place_filter.refused_places(call)
        retry = RetryState(excluded=refused.ids)
        last_failure: errors.LlbError | None = None
        while True:
            attempt, begun = begun or Attempt(self._context, call, estimate), None
            has_turn = retry.is_suspect and await self._wait_for_turn()
            try:
                if running is not None and running.failure is not None:
                    raise running.failure
                if call.stream:
                    response = await self._open_stream(attempt, sink, retry.excluded)
                else:
                    response = await attempt.open(retry.excluded)
                result = await attempt.relay(response, sink)
                if result.error is not None and not sink.started:
                    # The client has received nothing of the document, so another node may answer.
                    raise result.error
                if result.error is not None:
                    self._is_cause(call, result.error)
                else:
                    self._quarantine.record_success(call.model.id, call.body)
                return result
            except errors.RequestCrashesEngine as error:
                self._is_cause(call, error)
                raise
            except NODE_SPECIFIC_ERRORS as error:
                if attempt.place_id is None:
                    following = retry.after_no_candidate(self._context.node_connections.may_recover)
                    if following is None:
                        raise self._final_error(call, last_failure, refused, error) from None
                    retry = following
                    continue
                attempt.report_failure(error)
                log.warning(
                    "%s failed a request for %s: %s",
                    attempt.exchange.place_name,
                    call.model.id,
                    error.message,
                )
                last_failure = error
                if not isinstance(error, errors.EngineCrashed):
                    is_unreachable = isinstance(error.__cause__, TransportError)
                    retry = retry.after_node_failure(attempt.place_id, is_unreachable=is_unreachable)
                    continue
                if self._is_cause(call, error):
                    raise errors.RequestCrashesEngine(call.model.id) from error
                following = retry.after_engine_crash(
                    attempt.place_id, is_suspect=isinstance(error, errors.CrashSuspected)
                )
                if following is None:
                    raise
                retry = following
            finally:
                attempt.release()
                if has_turn:
                    self._suspect_lock.release()

    def _final_error(
        self,
        call: InferenceCall,
        last_failure: errors.LlbError | None,
        refused: RefusedPlaces,
        error: errors.LlbError,
    ) -> errors.LlbError:
        """Return the error of a request for which no node or endpoint is left."""
        if last_failure is not None:
            return last_failure
        if not isinstance(error, errors.NoNodeAvailable):
            return error
        registry = self._context.endpoints.registry
        usable = registry.places_of(call.model.id).keys() - refused.ids
        refusal = refused.error()
        if refusal is not None and not usable:
            return refusal
        return registry.unavailable_error(call.model.id) if usable else error

    async def _wait_for_turn(self) -> bool:
        """Wait until no other crash suspect is retried, so that the next crash shows the cause.

        Returns whether the turn was taken: the wait is limited.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(SUSPECT_WAIT_S):
                return await self._suspect_lock.acquire()
        return False

    def _is_cause(self, call: InferenceCall, error: errors.LlbError) -> bool:
        """Quarantine a request that has crashed an engine; returns whether it is known to be the cause."""
        if isinstance(error, errors.RequestCrashesEngine):
            principal = call.record.principal
            log.warning("a request of %s has crashed an engine of %s", principal.label, call.model.id)
            self._quarantine.record_crash(call.model.id, principal, call.body)
            return True
        return isinstance(error, errors.CrashSuspected) and self._quarantine.record_suspicion(
            call.model.id, call.body
        )

    @staticmethod
    async def _open_stream(attempt: Attempt, sink: ClientSink, excluded: frozenset[str]) -> UpstreamResponse:
        # A queue, a load and a long prompt send nothing; comments keep the client connected.
        async with SseKeepalive(sink, silent_s=attempt.silent_s):
            return await attempt.open(excluded)

    def _rate_limited(self, call: InferenceCall) -> RateLimitHold:
        """Return the block in which a request counts against the limits of its key and the key's parents."""
        completion_tokens = call.most_completion_tokens
        if completion_tokens is None:
            completion_tokens = self.performance.expected_completion_tokens(call.model.id)
        completion_tokens *= count_choices(call.head)
        if call.path == COMPLETION_PATH:
            completion_tokens *= count_prompts(call.head.prompt)
        return self._rate_limiter.limit_request(
            call.record, TokenReservation(estimate_prompt_tokens(call.body), completion_tokens)
        )

    @staticmethod
    async def _report_error(
        call: InferenceCall, sink: ClientSink, error: errors.LlbError
    ) -> RelayResult | None:
        """Write an error into a stream that has begun; raise it while the client has received nothing.

        Returns the outcome of a document that has begun; the connection must then be cut.
        """
        if not sink.started:
            raise error
        call.record.error_code = error.code
        if not call.stream:
            return RelayResult(200, False, Usage(), 0, None, time.monotonic(), error)
        try:
            async with asyncio.timeout(ERROR_WRITE_TIMEOUT_S):
                # A blank line ends the cut event, so that the error is a separate one.
                cut = EVENT_END if call.record.is_event_cut else b""
                await sink.write(cut + call.format_error_event(error))
        except TimeoutError:
            # The client reads nothing. The end of the request closes its connection.
            log.info("a client did not take the error that ended its stream: %s", error.message)
        return None

    def _estimate_request(self, call: InferenceCall) -> RequestEstimate:
        """Return the data for routing, with an affinity key only if there is a choice of nodes."""
        key = None
        if call.operation.generates_text and self._context.admission.serving_node_count(call.model.id) > 1:
            key = compute_affinity_key(call.head, call.session, call.key_id)
        return self.performance.estimate_request(
            call.model.id, estimate_prompt_tokens(call.body), call.max_completion_tokens, key
        )
