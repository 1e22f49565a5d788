"""One attempt: what it takes is given back, whatever its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace

from llb import errors
from llb.engine.watch_policy import Blame
from llb.gateway.attempt import Attempt
from llb.gateway.attempt_context import MAX_CONCURRENT_TOKEN_COUNTS
from llb.gateway.engine_routes import Operation
from llb.gateway.http.response import UpstreamResponse
from llb.gateway.http.upstream_errors import (
    ConnectError,
    EngineEnded,
    TransportError,
    UpstreamClosed,
    UpstreamTimeout,
)
from llb.gateway.stream.relay import MAX_HELD_BYTES, RelayResult
from llb.gateway.stream.usage_parser import Usage
from llb.policy.routing import RequestEstimate
from llb.wire import EngineReport
from tests.gateway.gateway_fixture import (
    DOCUMENT,
    EVENTS,
    LOCAL,
    FakeResponse,
    FakeSink,
    Gateway,
    gateway_of,
    make_call,
)

EVERYWHERE: frozenset[str] = frozenset()


class BegunRequest:
    """A request for which there is no idle connection; `answer` connects it."""

    def __init__(self) -> None:
        self.response: UpstreamResponse | None = None
        self.is_closed = False
        self.end: Callable[[], None] | None = None
        self.failure: TransportError | None = None

    def begin_connect(self, end: Callable[[], None]) -> None:
        self.end = end

    def answer(self, response: FakeResponse | None) -> None:
        self.response = cast(UpstreamResponse, response)
        assert self.end is not None
        self.end()

    async def wait(self) -> UpstreamResponse:
        assert self.failure is not None
        raise self.failure

    def close(self) -> None:
        self.is_closed = True


class LoadedGateway(Gateway):
    """A gateway whose own engine is loaded, or not; its requests begin without a connection."""

    def __init__(self) -> None:
        super().__init__(LOCAL)
        self.begun: list[BegunRequest] = []
        client = SimpleNamespace(begin_request=self._begin_request, close_idle=self.closed_targets.append)
        self.context = replace(self.context, http_client=cast(Any, client))

    def _begin_request(self, *_arguments: object, **_options: object) -> BegunRequest:
        self.begun.append(BegunRequest())
        return self.begun[-1]

    def attempt(self, **options: Any) -> Attempt:
        return Attempt(self.context, make_call(fits_any_template=True, **options), RequestEstimate())


def attempt_at(gateway: Gateway, **options: Any) -> Attempt:
    return Attempt(gateway.context, make_call(**options), RequestEstimate())


async def end(gateway: Gateway, attempt: Attempt) -> None:
    attempt.release()
    gateway.assert_idle()


# --- begin and connect: without a wait -----------------------------------------------------------------


async def test_a_loaded_engine_with_a_free_slot_is_leased_and_asked() -> None:
    gateway = LoadedGateway()
    attempt = gateway.attempt()
    assert attempt.begin(EVERYWHERE)
    [begun], [lease] = gateway.begun, gateway.leases
    assert (attempt.place_id, attempt.exchange.place_name) == (LOCAL, f"host-{LOCAL}")
    assert begun.response is None
    assert gateway.traffic.active_requests(LOCAL) == 1
    await end(gateway, attempt)
    assert (begun.is_closed, lease.is_released) == (True, True)


@pytest.mark.parametrize("answer", [FakeResponse([DOCUMENT]), None])
async def test_a_new_connection_tells_its_response_or_that_there_is_none(answer: FakeResponse | None) -> None:
    gateway = LoadedGateway()
    attempt = gateway.attempt()
    assert attempt.begin(EVERYWHERE)
    told: list[object] = []
    attempt.exchange.connect(told.append)
    assert told == []
    gateway.begun[0].answer(answer)
    assert told == [answer]
    await end(gateway, attempt)


async def test_an_engine_that_has_to_be_loaded_needs_a_wait() -> None:
    gateway = LoadedGateway()
    gateway.is_loaded = False
    attempt = gateway.attempt()
    assert not attempt.begin(EVERYWHERE)
    assert gateway.begun == []
    await end(gateway, attempt)


async def test_a_slot_that_is_not_free_needs_a_wait() -> None:
    gateway = LoadedGateway()
    first, second = gateway.attempt(), gateway.attempt()
    assert first.begin(EVERYWHERE)
    assert not second.begin(EVERYWHERE)
    second.release()
    assert second.place_id is None
    await end(gateway, first)


async def test_an_excluded_node_is_not_begun() -> None:
    gateway = LoadedGateway()
    attempt = gateway.attempt()
    with pytest.raises(errors.NoNodeAvailable):
        attempt.begin(frozenset({LOCAL}))
    assert gateway.leases == []
    await end(gateway, attempt)


# --- open: with waits ----------------------------------------------------------------------------------


async def test_the_head_of_an_answer_is_returned() -> None:
    gateway = Gateway("a")
    attempt = attempt_at(gateway)
    response = await attempt.open(EVERYWHERE)
    assert response.status == 200
    assert gateway.nodes.requests == ["a"]
    await end(gateway, attempt)


async def test_an_error_of_the_engine_is_read_and_its_connection_given_back() -> None:
    gateway = Gateway("a")
    refusal = FakeResponse([b'{"error":{"code":400,"message":"bad","type":"invalid_request_error"}}'], 400)
    gateway.nodes.outcomes["a"] = [refusal]
    attempt = attempt_at(gateway)
    with pytest.raises(errors.InvalidRequest, match="bad"):
        await attempt.open(EVERYWHERE)
    assert refusal.is_closed
    await end(gateway, attempt)


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (ConnectError("refused"), errors.EngineFailed),
        (UpstreamTimeout("header"), errors.EngineTimeout),
        (UpstreamClosed(before_first_byte=True), errors.EngineFailed),
        # The other host has found what ended its engine.
        (EngineEnded(Blame.NONE), errors.EngineCrashed),
        (EngineEnded(Blame.CAUSE), errors.RequestCrashesEngine),
    ],
)
async def test_failures_of_another_host(failure: Any, expected: type[errors.LlbError]) -> None:
    gateway = Gateway("a")
    gateway.nodes.outcomes["a"] = [failure]
    attempt = attempt_at(gateway)
    with pytest.raises(expected):
        await attempt.open(EVERYWHERE)
    await end(gateway, attempt)


async def test_counting_takes_a_permit_instead_of_a_slot() -> None:
    gateway = Gateway("a")
    busy = attempt_at(gateway)
    await busy.open(EVERYWHERE)
    counting = [attempt_at(gateway, operation=Operation.COUNTING) for _ in range(MAX_CONCURRENT_TOKEN_COUNTS)]
    # The only slot is taken, and none is needed.
    for attempt in counting:
        await attempt.open(EVERYWHERE)
    one_more = attempt_at(gateway, operation=Operation.COUNTING)
    waiting = asyncio.ensure_future(one_more.open(EVERYWHERE))
    await asyncio.sleep(0)
    assert not waiting.done()
    counting.pop().release()
    await waiting
    for attempt in (one_more, *counting):
        attempt.release()
    await end(gateway, busy)


async def test_a_wait_for_a_slot_that_is_cancelled_holds_nothing() -> None:
    gateway = Gateway("a")
    first, second = attempt_at(gateway), attempt_at(gateway)
    await first.open(EVERYWHERE)
    waiting = asyncio.ensure_future(second.open(EVERYWHERE))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    second.release()
    assert gateway.traffic.active_requests("a") == 1
    await end(gateway, first)


# --- the answer ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_is_passed_on_and_recorded(stream: bool) -> None:
    gateway = Gateway("a")
    answer = FakeResponse([EVENTS], content_type=b"text/event-stream") if stream else FakeResponse([DOCUMENT])
    answer.received_bytes = 77
    gateway.nodes.outcomes["a"] = [answer]
    call, sink = make_call(stream=stream), FakeSink()
    attempt = Attempt(gateway.context, call, RequestEstimate())
    result = await attempt.relay(await attempt.open(EVERYWHERE), sink)
    assert sink.body == (EVENTS if stream else DOCUMENT)
    assert sink.node_name == "host-a"
    record = call.record
    assert (record.is_answered, record.received_bytes, record.usage) == (True, 77, result.usage)
    await end(gateway, attempt)


async def test_the_wait_for_a_slot_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway, now_s = Gateway("a"), 1.0
    monkeypatch.setattr(gateway.admission, "_clock", lambda: now_s)
    first, second, sink = attempt_at(gateway), attempt_at(gateway), FakeSink()
    await first.open(EVERYWHERE)
    waiting = asyncio.ensure_future(second.open(EVERYWHERE))
    await asyncio.sleep(0)
    now_s = 1.5
    first.release()
    await second.relay(await waiting, sink)
    assert sink.queued_ms == 500
    await end(gateway, second)


async def test_an_error_that_was_recorded_before_gives_way_to_an_answer() -> None:
    gateway = Gateway("a")
    call = make_call()
    attempt = Attempt(gateway.context, call, RequestEstimate())
    await attempt.open(EVERYWHERE)
    result = RelayResult(200, False, Usage(3, 2), 10, 0.0, 1.0)
    attempt.record_result(replace(result, error=errors.EngineFailed("x")))
    assert (call.record.is_answered, call.record.error_code) == (False, "engine_failed")
    attempt.record_result(result)
    assert (call.record.is_answered, call.record.error_code) == (True, None)
    await end(gateway, attempt)


@pytest.mark.parametrize(
    ("error", "suspected"),
    [(errors.EngineFailed("x"), 1), (errors.EngineTimeout("x"), 1), (errors.InvalidRequest("x"), 0)],
)
async def test_an_engine_is_suspected_of_its_own_failures_only(
    error: errors.LlbError, suspected: int
) -> None:
    gateway = LoadedGateway()
    attempt = gateway.attempt()
    assert attempt.begin(EVERYWHERE)
    attempt.report_failure(error)
    assert gateway.leases[0].suspected_failures == len(gateway.closed_targets) == suspected
    await end(gateway, attempt)


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (UpstreamClosed(before_first_byte=True), errors.CrashSuspected),
        # A silent engine has not ended.
        (UpstreamTimeout("header"), errors.EngineTimeout),
    ],
)
async def test_the_part_of_a_request_in_the_end_of_its_engine_is_told(
    failure: Any, expected: type[errors.LlbError]
) -> None:
    gateway = LoadedGateway()
    attempt = gateway.attempt()
    assert attempt.begin(EVERYWHERE)
    gateway.leases[0].blame = Blame.SUSPECT
    gateway.begun[0].failure = failure
    with pytest.raises(expected):
        await attempt.open(EVERYWHERE)
    await end(gateway, attempt)


async def test_what_another_host_cached_before_this_process_is_not_told() -> None:
    """Its engine may have served anybody. A held document that breaks off is an error of its own."""
    usage = b'"usage":{"prompt_tokens":40,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":%d}}'
    async with gateway_of("a") as gateway:
        gateway.context.view.nodes["a"].engines["m"] = cast(EngineReport, None)
        gateway.nodes.outcomes["a"] = [FakeResponse([b"{" + usage % 30 + b"}"])]
        sink, call = FakeSink(), make_call()
        await gateway.dispatcher.dispatch(call, sink)
        assert sink.body == b"{" + usage % 0 + b"}"
        assert (call.record.usage.prompt_tokens, call.record.usage.cached_tokens) == (40, 0)

        gateway.nodes.outcomes["a"] = [
            FakeResponse([b'{"text":"' + b"x" * MAX_HELD_BYTES, UpstreamClosed(before_first_byte=False)])
        ]
        sink = FakeSink()
        with pytest.raises(errors.EngineFailed):
            await gateway.dispatcher.dispatch(make_call(), sink)
        assert sink.body == b""
