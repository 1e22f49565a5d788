"""Dispatcher over fakes: failover, rounds, giving up, deadline, cancellation.

Nothing that was taken is left over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from msgspec import structs

from llb import errors
from llb.gateway import dispatcher as dispatcher_module
from llb.gateway.engine_routes import Operation
from llb.gateway.http.upstream_errors import ConnectError, UpstreamClosed
from llb.gateway.stream.keepalive import SseKeepalive
from llb.gateway.stream.relay import MAX_HELD_BYTES
from llb.gateway.stream.sse import MAX_EVENT_BYTES
from tests.gateway.gateway_fixture import (
    DOCUMENT,
    EVENTS,
    Chunk,
    FakeResponse,
    FakeSink,
    Gateway,
    broken,
    gateway_of,
    make_call,
)


async def test_the_first_node_answers() -> None:
    async with gateway_of("a", "b") as gateway:
        sink, call = FakeSink(), make_call()
        result = await gateway.dispatcher.dispatch(call, sink)
        assert result is not None
        assert (sink.body, result.usage.completion_tokens) == (DOCUMENT, 2)
        assert sink.node_name == f"host-{call.record.node_id}"
        assert len(gateway.nodes.requests) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_another_node_answers_when_the_first_breaks_before_its_first_byte(stream: bool) -> None:
    async with gateway_of("a", "b") as gateway:
        answer = (
            FakeResponse([EVENTS], content_type=b"text/event-stream") if stream else FakeResponse([DOCUMENT])
        )
        gateway.nodes.outcomes = {"a": [broken()], "b": [broken()]}
        first = await first_choice(gateway)
        gateway.nodes.outcomes = {first: [broken()], "b" if first == "a" else "a": [answer]}
        sink, call = FakeSink(), make_call(stream=stream)
        await gateway.dispatcher.dispatch(call, sink)
        assert sink.body == (EVENTS if stream else DOCUMENT)
        assert call.record.node_id != first


async def first_choice(gateway: Gateway) -> str:
    """The node that routing prefers, found with a request that fails everywhere."""
    with pytest.raises(errors.EngineFailed):
        await gateway.dispatcher.dispatch(make_call(), FakeSink())
    first = gateway.nodes.requests[0]
    gateway.nodes.requests.clear()
    return first


async def test_no_other_node_is_asked_after_the_first_byte() -> None:
    """The client has half of an answer: the rest of another one would not fit."""
    async with gateway_of("a", "b") as gateway:
        half: list[Chunk] = [EVENTS[:70] + b"\n\n", UpstreamClosed(before_first_byte=False)]
        for node_id in ("a", "b"):
            gateway.nodes.outcomes[node_id] = [FakeResponse([*half], content_type=b"text/event-stream")]
        sink, call = FakeSink(), make_call(stream=True)
        result = await gateway.dispatcher.dispatch(call, sink)
        assert len(gateway.nodes.requests) == 1
        assert result is not None
        assert isinstance(result.error, errors.EngineFailed)
        assert b'"code":"engine_failed"' in sink.body
        assert call.record.error_code == "engine_failed"


async def test_an_unreachable_node_that_may_recover_is_tried_in_another_round() -> None:
    async with gateway_of("a") as gateway:
        gateway.nodes.recovering = {"a"}
        gateway.nodes.outcomes["a"] = [ConnectError("refused"), FakeResponse([DOCUMENT])]
        sink = FakeSink()
        await gateway.dispatcher.dispatch(make_call(), sink)
        assert sink.body == DOCUMENT
        assert gateway.nodes.requests == ["a", "a"]


async def test_rounds_end() -> None:
    async with gateway_of("a") as gateway:
        gateway.nodes.recovering = {"a"}
        gateway.nodes.outcomes["a"] = [ConnectError("refused")]
        with pytest.raises(errors.EngineFailed, match="cannot be reached"):
            await gateway.dispatcher.dispatch(make_call(), FakeSink())
        assert gateway.nodes.requests == ["a"] * 3


async def test_giving_up_raises_what_a_node_said_and_not_that_none_is_left() -> None:
    async with gateway_of("a", "b") as gateway:
        refusal = FakeResponse([b'{"error":{"message":"no memory"}}'], status=500)
        gateway.nodes.outcomes = {"a": [refusal], "b": [refusal]}
        with pytest.raises(errors.UpstreamError):
            await gateway.dispatcher.dispatch(make_call(), FakeSink())
        assert sorted(gateway.nodes.requests) == ["a", "b"]


async def test_a_refusal_of_the_request_itself_is_not_tried_elsewhere() -> None:
    async with gateway_of("a", "b") as gateway:
        refusal = FakeResponse(
            [b'{"error":{"code":400,"message":"bad","type":"invalid_request_error"}}'], status=400
        )
        gateway.nodes.outcomes = {"a": [refusal], "b": [refusal]}
        with pytest.raises(errors.InvalidRequest):
            await gateway.dispatcher.dispatch(make_call(), FakeSink())
        assert len(gateway.nodes.requests) == 1


async def test_without_any_node_the_reason_is_told() -> None:
    async with gateway_of() as gateway:
        with pytest.raises(errors.NoNodeAvailable):
            await gateway.dispatcher.dispatch(make_call(), FakeSink())


async def test_an_error_after_keepalive_comments_is_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        dispatcher_module, "SseKeepalive", lambda sink, **_options: SseKeepalive(sink, interval_s=0.001)
    )
    async with gateway_of("a") as gateway:

        async def answer_late() -> FakeResponse:
            while not sink.started:
                await asyncio.sleep(0.001)
            return broken()

        gateway.nodes.outcomes["a"] = [answer_late]
        sink, call = FakeSink(), make_call(stream=True)
        assert await gateway.dispatcher.dispatch(call, sink) is None
        assert sink.body.startswith(b": heartbeat\n\n")
        assert b'"code":"engine_failed"' in sink.body
        assert call.record.error_code == "engine_failed"


async def test_a_client_that_leaves_gives_back_all_that_its_request_held() -> None:
    async with gateway_of("a") as gateway:
        is_waiting = asyncio.Event()

        async def answer_never() -> FakeResponse:
            is_waiting.set()
            await asyncio.Event().wait()
            raise AssertionError

        gateway.nodes.outcomes["a"] = [answer_never]
        request = asyncio.ensure_future(gateway.dispatcher.dispatch(make_call(), FakeSink()))
        await is_waiting.wait()
        assert gateway.traffic.active_requests("a") == 1
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request


async def test_a_client_that_leaves_after_the_end_of_its_answer_has_got_it() -> None:
    """The counts come behind the end, and only then the end of the body."""
    finish = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
    counts = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\ndata: [DONE]\n\n'
    async with gateway_of("a") as gateway:
        answer = FakeResponse([EVENTS.partition(b"data: [DONE]")[0] + finish, counts])
        answer.content_type = b"text/event-stream"
        gateway.nodes.outcomes["a"] = [answer]
        call, sink = make_call(stream=True), FakeSink()
        task = asyncio.ensure_future(gateway.dispatcher.dispatch(call, sink))
        while finish not in sink.body:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert call.record.is_answered
        assert (call.record.usage.prompt_tokens, call.record.usage.completion_tokens) == (3, 2)


async def test_a_request_over_its_deadline_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher_module, "MAX_REQUEST_DURATION_S", 0.01)
    async with gateway_of("a") as gateway:

        async def answer_never() -> FakeResponse:
            await asyncio.Event().wait()
            raise AssertionError

        gateway.nodes.outcomes["a"] = [answer_never]
        with pytest.raises(errors.EngineTimeout, match="longer than a request may take"):
            await gateway.dispatcher.dispatch(make_call(), FakeSink())


@dataclass
class RevokedResponse(FakeResponse):
    """Answer in the midst of which `revoke_key` is called; its rest never comes."""

    revoke_key: Callable[[], None] = field(kw_only=True)

    async def read_chunk(self, wait_s: float) -> bytes:
        if not self.chunks:
            self.revoke_key()
            await asyncio.Event().wait()
        return await super().read_chunk(wait_s)


async def test_a_revocation_before_the_first_byte_is_an_error() -> None:
    async with gateway_of("a") as gateway:

        async def answer_never() -> FakeResponse:
            gateway.revoke_key()
            await asyncio.Event().wait()
            raise AssertionError

        gateway.nodes.outcomes["a"] = [answer_never]
        with pytest.raises(errors.InvalidApiKey, match="revoked"):
            await gateway.dispatcher.dispatch(make_call(), FakeSink())


@pytest.mark.parametrize("stream", [False, True])
async def test_a_revocation_ends_an_answer_that_has_begun(stream: bool) -> None:
    async with gateway_of("a") as gateway:
        first = EVENTS.partition(b"data: [DONE]")[0] if stream else b"x" * 2 * MAX_HELD_BYTES
        content_type = b"text/event-stream" if stream else b"application/json"
        response = RevokedResponse([first], content_type=content_type, revoke_key=gateway.revoke_key)
        gateway.nodes.outcomes["a"] = [response]
        # Embeddings are documents that the engine does not stream.
        operation = Operation.CHAT if stream else Operation.EMBEDDINGS
        sink, call = FakeSink(), make_call(stream=stream, operation=operation)
        if not stream:
            call = structs.replace(call, body=b'{"model":"m","input":"x"}')
        result = await gateway.dispatcher.dispatch(call, sink)
        assert call.record.error_code == "invalid_api_key"
        assert response.is_closed
        if stream:
            assert result is None
            assert sink.body.startswith(first)
            assert sink.body.endswith(b"\n\n")
            assert b'"code":"invalid_api_key"' in sink.body
        else:
            # The route cuts the connection: an error event in a document would be taken for its end.
            assert result is not None
            assert (result.stream, result.error is not None) == (False, True)
            assert sink.body == first


async def test_a_revocation_inside_a_long_event_is_an_event_of_its_own() -> None:
    begun = b'data: {"choices":[{"delta":{"content":"' + b"x" * MAX_EVENT_BYTES
    async with gateway_of("a") as gateway:
        gateway.nodes.outcomes["a"] = [
            RevokedResponse([begun], content_type=b"text/event-stream", revoke_key=gateway.revoke_key)
        ]
        sink = FakeSink()
        assert await gateway.dispatcher.dispatch(make_call(stream=True), sink) is None
    cut, error, rest = sink.body.split(b"\n\n")
    assert cut == begun
    assert error.startswith(b'data: {"error":')
    assert rest == b""


async def test_a_client_that_reads_nothing_does_not_hold_up_a_revocation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatcher_module, "ERROR_WRITE_TIMEOUT_S", 0.01)

    class StuckSink(FakeSink):
        async def write(self, data: bytes, /, *, last: bool = False) -> None:
            await super().write(data, last=last)
            gateway.revoke_key()
            await asyncio.Event().wait()

    async with gateway_of("a") as gateway:
        gateway.nodes.outcomes["a"] = [FakeResponse([EVENTS], content_type=b"text/event-stream")]
        assert await gateway.dispatcher.dispatch(make_call(stream=True), StuckSink()) is None


async def test_a_drain_waits_for_the_running_request_and_takes_no_new_one() -> None:
    async with gateway_of("a") as gateway:
        is_waiting, may_answer = asyncio.Event(), asyncio.Event()

        async def answer_when_told() -> FakeResponse:
            is_waiting.set()
            await may_answer.wait()
            return FakeResponse([DOCUMENT])

        gateway.nodes.outcomes["a"] = [answer_when_told]
        sink = FakeSink()
        request = asyncio.ensure_future(gateway.dispatcher.dispatch(make_call(), sink))
        await is_waiting.wait()
        drain = asyncio.ensure_future(gateway.dispatcher.drain(5.0))
        await asyncio.sleep(0)
        with pytest.raises(errors.NoNodeAvailable):
            await gateway.dispatcher.dispatch(make_call(), FakeSink())
        assert not drain.done()
        may_answer.set()
        await asyncio.gather(request, drain)
        assert sink.body == DOCUMENT
