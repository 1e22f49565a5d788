"""Relay of streams and documents from an engine to a client."""

from __future__ import annotations

import asyncio

import pytest

from llb.errors import EngineFailed, EngineTimeout
from llb.gateway.http.client import HttpClient
from llb.gateway.stream.aggregator import ChatAggregator
from llb.gateway.stream.disconnect_detection import ProgressFilter
from llb.gateway.stream.relay import (
    MAX_HELD_BYTES,
    EventRelay,
    RelayTimeouts,
    relay_aggregated,
    relay_response,
)
from llb.gateway.stream.sse import MAX_EVENT_BYTES, SSE_KEEPALIVE
from tests.gateway.fake_engine import SSE_HEAD, Exchange, ResponseHandler, run_fake_engine
from tests.gateway.stream.relay_fixture import LAST, Sink, ask, run, sent_error, stream


@pytest.fixture(autouse=True, params=[False, True], ids=["awaited", "piped"])
def pipe(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both ways to a client."""
    monkeypatch.setattr(Sink, "has_pipe", request.param)
    return bool(request.param)


async def test_a_slow_client_of_a_stream_gets_all_of_it(http_client: HttpClient) -> None:
    sink = Sink()
    events = [b"data: %d %b\n\n" % (number, b"x" * 40_000) for number in range(50)]

    async def slow() -> None:
        for count in (1, 2, 7):
            await sink.until(count)
            sink.ready.clear()
            await asyncio.sleep(0)
            sink.ready.set()

    async with run_fake_engine(stream(*events, LAST)) as served:
        result, _ = await asyncio.gather(run(http_client, served, sink), slow())
    assert sink.got == b"".join(events) + LAST
    assert (result.error, result.usage.prompt_tokens) == (None, 31)


async def test_a_client_that_goes_in_the_middle_of_a_stream(http_client: HttpClient) -> None:
    sink = Sink()

    async def answer(exchange: Exchange) -> None:
        await exchange.send(SSE_HEAD)
        await exchange.send_chunk(b"data: 1\n\n")
        await sink.until(1)
        sink.gone = True
        await exchange.send_chunk(b"data: 2\n\n")
        await exchange.client_closed.wait()

    async with run_fake_engine(answer) as served:
        with pytest.raises(ConnectionResetError):
            await run(http_client, served, sink)
        await served.wait_for_open_connections(0)


async def test_a_stream_passes_through_byte_for_byte(http_client: HttpClient) -> None:
    parts = [b"data: one\n\n", b"data: tw", b"o\n", b"\ndata: three\r\n\r\nda", b"ta: four\n\n" + LAST]
    sink = Sink()
    async with run_fake_engine(stream(*parts)) as served:
        result = await run(http_client, served, sink)
    assert sink.got == b"".join(parts)
    assert all(write.endswith((b"\n\n", b"\r\n\r\n")) for write in sink.writes)
    assert result.stream
    assert result.error is None
    assert result.body_bytes == len(sink.got)
    assert result.first_byte_at is not None
    assert result.first_byte_at <= result.ended_at
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (31, 3)
    assert http_client.idle_connections == 1


@pytest.mark.parametrize("way", ["stream", "with a prelude", "whole"])
async def test_an_answer_is_heard_of_when_the_client_gets_some(http_client: HttpClient, way: str) -> None:
    """Until then a node that has gone takes nothing along that another could not do as well."""
    sink, heard = Sink(), asyncio.Event()
    unheard: list[bool] = []

    async def answer(exchange: Exchange) -> None:
        await exchange.send(SSE_HEAD)
        await exchange.send_chunk(b'data: {"choices":[],"prompt_progress":{"processed":1}}\n\n')
        if way == "stream":
            await sink.until(1)
        else:
            await asyncio.sleep(0.05)  # what does not come has no event
        unheard.append(not heard.is_set())
        await exchange.send_chunk(b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n')
        if way == "with a prelude":
            await sink.until(1)
        else:
            await asyncio.sleep(0.05)  # as above
        unheard.append(not heard.is_set())
        await exchange.send_chunk(
            b'data: {"id":"1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
        )
        await exchange.send_chunk(LAST)
        await exchange.end_body()

    async with run_fake_engine(answer) as served:
        response = await ask(http_client, served)
        response.defer_started(heard.set)
        if way == "whole":
            await relay_aggregated(response, sink, ChatAggregator())
        else:
            opening_filter = ProgressFilter() if way == "with a prelude" else None
            begun = EventRelay(response, opening_filter=opening_filter)
            await relay_response(response, sink, begun=begun)
    assert unheard == {"stream": [False, False], "with a prelude": [True, False], "whole": [True, True]}[way]
    assert heard.is_set()


async def test_a_stream_that_ends_without_a_blank_line(http_client: HttpClient) -> None:
    sink = Sink()
    async with run_fake_engine(stream(b"data: 1\n\ndata: 2")) as served:
        result = await run(http_client, served, sink)
    assert sink.got == b"data: 1\n\ndata: 2"
    assert result.error is None


async def test_heartbeats_fill_silence_and_stand_between_events(http_client: HttpClient) -> None:
    sink = Sink()

    async def answer(exchange: Exchange) -> None:
        await exchange.send(SSE_HEAD)
        await sink.until(2)
        await exchange.send_chunk(b"data: half of an")
        await sink.until(4)
        await exchange.send_chunk(b" event\n\n")
        await exchange.end_body()

    async with run_fake_engine(answer) as served:
        result = await run(http_client, served, sink, heartbeat_s=0.02)
    assert len(sink.writes) >= 5
    assert sink.writes[-1] == b"data: half of an event\n\n"
    assert set(sink.writes[:-1]) == {SSE_KEEPALIVE}
    assert result.body_bytes == len(sink.writes[-1])


async def test_an_engine_that_dies_in_the_middle(http_client: HttpClient) -> None:
    sink = Sink()
    async with run_fake_engine(stream(b"data: 1\n\n", b"data: cut o", finish=False)) as served:
        result = await run(http_client, served, sink)
    assert sink.got.startswith(b"data: 1\n\ndata: {")
    assert sent_error(sink.got) == {
        "message": "The engine stopped before its answer was complete",
        "type": "upstream_error",
        "code": "engine_failed",
    }
    assert isinstance(result.error, EngineFailed)


async def test_an_engine_that_falls_silent(http_client: HttpClient) -> None:
    sink = Sink()

    async def answer(exchange: Exchange) -> None:
        await exchange.send(SSE_HEAD)
        await exchange.send_chunk(b"data: 1\n\n")
        await exchange.client_closed.wait()

    async with run_fake_engine(answer) as served:
        result = await run(http_client, served, sink, heartbeat_s=0.03, idle_timeout_s=0.1)
        await served.wait_for_open_connections(0)
    assert sink.writes[:2] == [b"data: 1\n\n", SSE_KEEPALIVE]
    assert sent_error(sink.got)["code"] == "engine_timeout"
    assert isinstance(result.error, EngineTimeout)


async def test_a_long_prompt_is_not_taken_for_a_silent_engine(http_client: HttpClient) -> None:
    """The head has come, the first event takes longer than a later one may."""
    sink = Sink()

    async def answer(exchange: Exchange) -> None:
        await exchange.send(SSE_HEAD)
        await sink.until(4)  # heartbeats: three idle deadlines have passed
        await exchange.send_chunk(LAST)
        await exchange.end_body()

    async with run_fake_engine(answer) as served:
        result = await run(http_client, served, sink, heartbeat_s=0.02, idle_timeout_s=0.02)
    assert result.error is None
    assert sink.writes[-1] == LAST


async def test_a_first_event_that_never_comes(http_client: HttpClient) -> None:
    sink = Sink()

    async def answer(exchange: Exchange) -> None:
        await exchange.send(SSE_HEAD)
        await exchange.client_closed.wait()

    async with run_fake_engine(answer) as served:
        response = await http_client.request(
            served.target, b"GET", b"/", connect_timeout_s=5, header_timeout_s=5
        )
        with pytest.raises(EngineTimeout):
            await relay_response(response, sink, timeouts=RelayTimeouts(first_event_s=0.05))
        await served.wait_for_open_connections(0)
    assert sink.writes == []


@pytest.mark.parametrize(
    "answer",
    [
        stream(finish=False),
        stream(b"data: not a whole event", finish=False),
    ],
    ids=["nothing", "half an event"],
)
async def test_a_stream_that_breaks_before_its_first_event_can_be_had_elsewhere(
    http_client: HttpClient, answer: ResponseHandler
) -> None:
    sink = Sink()
    async with run_fake_engine(answer) as served:
        with pytest.raises(EngineFailed):
            await run(http_client, served, sink)
    assert sink.writes == []


async def test_an_event_too_large_to_hold_passes_in_pieces(http_client: HttpClient) -> None:
    sink = Sink()
    giant = b"data: " + b"x" * (3 * MAX_EVENT_BYTES) + b"\n\n"
    async with run_fake_engine(stream(giant, LAST)) as served:
        result = await run(http_client, served, sink)
    assert sink.got == giant + LAST
    assert len(sink.writes) > 2
    assert result.usage.prompt_tokens == 31


async def test_an_engine_that_dies_inside_a_giant_event(http_client: HttpClient) -> None:
    sink = Sink()
    async with run_fake_engine(stream(b"data: " + b"x" * (2 * MAX_EVENT_BYTES), finish=False)) as served:
        await run(http_client, served, sink)
    assert sent_error(sink.got)["code"] == "engine_failed"
    assert b"x\n\ndata: {" in sink.got


async def test_an_error_that_the_engine_itself_streamed(http_client: HttpClient) -> None:
    sink = Sink()
    said = b'data: {"error":{"code":500,"message":"Compute error.","type":"server_error"}}\n\n'
    async with run_fake_engine(stream(b"data: 1\n\n", said)) as served:
        result = await run(http_client, served, sink)
    assert sink.got == b"data: 1\n\n" + said
    assert isinstance(result.error, EngineFailed)


async def test_a_document_passes_through(http_client: HttpClient) -> None:
    sink = Sink()
    body = b'{"usage":{"prompt_tokens":5,"completion_tokens":2},"timings":{"prompt_n":1,"predicted_ms":3.5}}'

    async def answer(exchange: Exchange) -> None:
        await exchange.send_json(body)

    async with run_fake_engine(answer) as served:
        result = await run(http_client, served, sink)
    assert sink.writes == [body]
    assert not result.stream
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (5, 2)
    assert result.usage.decode_ms == 3.5


@pytest.mark.parametrize("size_bytes", [0, MAX_HELD_BYTES, MAX_HELD_BYTES + 1, 5 * MAX_HELD_BYTES])
async def test_documents_of_any_size(http_client: HttpClient, size_bytes: int) -> None:
    sink = Sink()

    async def answer(exchange: Exchange) -> None:
        await exchange.send_json(b"x" * size_bytes)

    async with run_fake_engine(answer) as served:
        result = await run(http_client, served, sink)
    assert sink.got == b"x" * size_bytes
    assert result.body_bytes == size_bytes
    if 0 < size_bytes <= MAX_HELD_BYTES:
        assert (len(sink.writes), sink.ended) == (1, True)


@pytest.mark.parametrize("sent_bytes", [100, 4 * MAX_HELD_BYTES])
async def test_a_document_that_breaks(http_client: HttpClient, sent_bytes: int) -> None:
    """Held back, it can still be had elsewhere; once begun, the caller is told to cut its client off."""
    sink = Sink()

    async def answer(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n" + b"x" * sent_bytes)
        exchange.writer.write_eof()
        await exchange.client_closed.wait()

    async with run_fake_engine(answer) as served:
        if sent_bytes < MAX_HELD_BYTES:
            with pytest.raises(EngineFailed):
                await run(http_client, served, sink)
            assert sink.writes == []
        else:
            result = await run(http_client, served, sink)
            assert isinstance(result.error, EngineFailed)
            assert b"error" not in sink.got


async def test_a_client_that_has_gone_closes_the_engines_connection(http_client: HttpClient) -> None:
    sink = Sink()
    sink.gone = True

    async def answer(exchange: Exchange) -> None:
        await exchange.send(SSE_HEAD)
        await exchange.send_chunk(b"data: 1\n\n")
        await exchange.client_closed.wait()

    async with run_fake_engine(answer) as served:
        with pytest.raises(ConnectionResetError):
            await run(http_client, served, sink)
        await served.wait_for_open_connections(0)


async def test_a_cancelled_relay_closes_the_engines_connection(http_client: HttpClient) -> None:
    sink = Sink()

    async def answer(exchange: Exchange) -> None:
        await exchange.send(SSE_HEAD)
        await exchange.send_chunk(b"data: 1\n\n")
        await exchange.client_closed.wait()

    async with run_fake_engine(answer) as served:
        task = asyncio.ensure_future(run(http_client, served, sink))
        await sink.until(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await served.wait_for_open_connections(0)
