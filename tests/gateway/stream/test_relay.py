from __future__ import annotations

import asyncio
import json

import pytest

from llb.errors import EngineFailed, EngineTimeout, LlbError
from llb.gateway.http.client import HttpClient
from llb.gateway.http.response import UpstreamResponse
from llb.gateway.http.upstream_errors import InvalidResponse, UpstreamClosed
from llb.gateway.stream.aggregator import ChatAggregator, MessagesAggregator
from llb.gateway.stream.disconnect_detection import ProgressFilter
from llb.gateway.stream.keepalive import SseKeepalive
from llb.gateway.stream.relay import MAX_HELD_BYTES, RelayResult, relay_aggregated, relay_response
from llb.gateway.stream.sse import MAX_EVENT_BYTES, SSE_KEEPALIVE
from llb.gateway.stream.start_event import ChatStartEvent, MessagesStartEvent, read_token_count
from tests.gateway.fake_engine import SSE_HEAD, Exchange, FakeEngine, ResponseHandler, run_fake_engine

LAST = b'data: {"choices":[],"usage":{"prompt_tokens":31,"completion_tokens":3}}\n\ndata: [DONE]\n\n'


class Sink:
    """A client that keeps what it gets, and may be slow or gone."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.wrote = asyncio.Event()
        self.ready = asyncio.Event()
        self.ready.set()
        self.gone = False
        self.ended = False

    async def write(self, data: bytes, /, *, last: bool = False) -> None:
        assert not self.ended
        self.ended = last
        await self.ready.wait()
        if self.gone:
            raise ConnectionResetError("the client has gone")
        self.writes.append(data)
        self.wrote.set()

    @property
    def got(self) -> bytes:
        return b"".join(self.writes)

    async def until(self, count: int) -> None:
        while len(self.writes) < count:
            self.wrote.clear()
            await self.wrote.wait()


async def ask(http_client: HttpClient, served: FakeEngine) -> UpstreamResponse:
    return await http_client.request(
        served.target, b"POST", b"/", (), b"{}", connect_timeout_s=5, header_timeout_s=5
    )


async def run(
    http_client: HttpClient,
    served: FakeEngine,
    sink: Sink,
    *,
    heartbeat_s: float = 30,
    idle_timeout_s: float = 30,
) -> RelayResult:
    response = await ask(http_client, served)
    return await relay_response(
        response, sink, keepalive_interval_s=heartbeat_s, idle_timeout_s=idle_timeout_s
    )


def stream(*chunks: bytes, finish: bool = True) -> ResponseHandler:
    async def answer(exchange: Exchange) -> None:
        await exchange.send(SSE_HEAD)
        for chunk in chunks:
            await exchange.send_chunk(chunk)
        if finish:
            await exchange.end_body()
        else:
            # Closed in order, so that what was sent arrives first.
            exchange.writer.write_eof()
            await exchange.client_closed.wait()

    return answer


def sent_error(got: bytes) -> dict[str, str]:
    assert got.endswith(b"\n\n")
    event = got.removesuffix(b"\n\n").rpartition(b"\n\n")[2]
    assert event.startswith(b"data: ")
    error: dict[str, str] = json.loads(event[6:])["error"]
    return error


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
            await asyncio.sleep(0.05)
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
            await relay_response(
                response, sink, opening_filter=ProgressFilter() if way == "with a prelude" else None
            )
    assert unheard == {"stream": [False, False], "with a prelude": [True, False], "whole": [True, True]}[way]
    assert heard.is_set()


REST = (
    b"event: content_block_start\ndata:"
    b' {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}\n\nevent:'
    b" content_block_delta\ndata:"
    b' {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"\xf0\x9f\x8c\x9f"}}\n\nevent:'
    b" message_delta\ndata:"
    b' {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":4}}\n\nevent:'
    b' message_stop\ndata: {"type":"message_stop"}\n\n'
)
START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"1","role":"assistant","usage":'
    b'{"cache_read_input_tokens":3,"input_tokens":2,"output_tokens":0}}}\n\n'
)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("sent", [START + REST, REST], ids=["as it should", "without"])
async def test_a_message_begins_with_its_start(http_client: HttpClient, sent: bytes, whole: bool) -> None:
    sink, counted = Sink(), 0

    async def count() -> int:
        nonlocal counted
        counted += 1
        return 31

    opening = MessagesStartEvent("chat", "007", count)
    async with run_fake_engine(stream(sent)) as served:
        response = await ask(http_client, served)
        if whole:
            result = await relay_aggregated(response, sink, MessagesAggregator(), start_event=opening)
            message = json.loads(sink.got)
            assert message["content"] == [{"type": "text", "text": "🌟"}]
            assert message["stop_reason"] == "end_turn"
        else:
            result = await relay_response(response, sink, opening_filter=ProgressFilter(opening))
            assert sink.got.endswith(REST)
            assert sink.got.count(b"message_start\n") == 1
            message = json.loads(sink.got.split(b"\n")[1].removeprefix(b"data: "))["message"]
    assert counted == (sent == REST)
    assert message["id"] == ("msg_007" if counted else "1")
    assert message["usage"]["input_tokens"] == (31 if counted else 2)
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (31 if counted else 5, 4)


@pytest.mark.parametrize("whole", [False, True])
async def test_a_message_whose_prompt_cannot_be_counted_is_asked_for_elsewhere(
    http_client: HttpClient, whole: bool
) -> None:
    sink = Sink()

    async def count() -> int:
        raise UpstreamClosed(before_first_byte=True)

    opening = MessagesStartEvent("chat", "007", count)
    async with run_fake_engine(stream(REST)) as served:
        response = await ask(http_client, served)
        relaying = (
            relay_aggregated(response, sink, MessagesAggregator(), start_event=opening)
            if whole
            else relay_response(response, sink, opening_filter=ProgressFilter(opening))
        )
        with pytest.raises(EngineFailed):
            await relaying
    assert sink.got == b""


async def test_an_error_is_no_message_without_a_start(http_client: HttpClient) -> None:
    failed = b'event: error\ndata: {"type":"error","error":{"message":"No"}}\n\n'

    async def count() -> int:
        raise AssertionError("nothing is to be counted")

    sink = Sink()
    async with run_fake_engine(stream(failed)) as served:
        await relay_response(
            await ask(http_client, served),
            sink,
            opening_filter=ProgressFilter(MessagesStartEvent("chat", "007", count)),
        )
    assert sink.got == failed


ROLE = (
    b"data:"
    b' {"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],"id":"1"}\n\n'
)
WORD = (
    b"data:"
    b' {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"\xf0\x9f\x8c\x9f"}}],"id":"1"}\n\n'
)
ERROR = b'data: {"error":{"message":"No"}}\n\n'


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (ROLE + WORD + LAST, ROLE + WORD + LAST),
        (WORD + LAST, ROLE + WORD + LAST),
        (ERROR, ERROR),
        (LAST, LAST),
        (b": comment\n\n" + LAST, b": comment\n\n" + LAST),
        (b'data: {"choices":[7]}\n\n', b'data: {"choices":[7]}\n\n'),
        (b'data: {"choices":null}\n\n', b'data: {"choices":null}\n\n'),
        (b"data: [DONE]\n\n", b"data: [DONE]\n\n"),
    ],
)
async def test_a_chat_begins_with_its_role(http_client: HttpClient, sent: bytes, expected: bytes) -> None:
    sink = Sink()
    async with run_fake_engine(stream(sent)) as served:
        await relay_response(
            await ask(http_client, served), sink, opening_filter=ProgressFilter(ChatStartEvent())
        )
    assert sink.got == expected


@pytest.mark.parametrize(
    ("body", "expected"), [(b'{"input_tokens":7}', 7), (b'{"input_tokens":"7"}', None), (b"No", None)]
)
async def test_reading_a_count(http_client: HttpClient, body: bytes, expected: int | None) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async with run_fake_engine(answer) as served:
        response = await ask(http_client, served)
        if expected is None:
            with pytest.raises(InvalidResponse):
                await read_token_count(response, 5)
        else:
            assert await read_token_count(response, 5) == expected


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
            await relay_response(response, sink, first_event_timeout_s=0.05)
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


async def test_no_heartbeat_for_a_quick_block() -> None:
    sink = Sink()
    async with SseKeepalive(sink, 30) as heartbeat:
        pass
    assert not heartbeat.has_written
    assert sink.writes == []


async def test_heartbeats_while_a_block_takes_long() -> None:
    sink = Sink()
    async with SseKeepalive(sink, 0.01) as heartbeat:
        await sink.until(3)
    assert heartbeat.has_written
    count = len(sink.writes)
    assert sink.got == SSE_KEEPALIVE * count
    await asyncio.sleep(0)
    assert len(sink.writes) == count
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("heartbeat")] == []


async def test_a_comment_under_way_is_finished_before_the_block_is_left() -> None:
    sink = Sink()
    sink.ready.clear()
    async with SseKeepalive(sink, 0.001) as heartbeat:
        while not heartbeat.has_written:  # it has no event
            await asyncio.sleep(0.001)
        asyncio.get_running_loop().call_soon(sink.ready.set)
    assert sink.writes == [SSE_KEEPALIVE]


async def until_started(sink: Sink, error: Exception | None) -> None:
    async with SseKeepalive(sink, 0.001) as heartbeat:
        while not heartbeat.has_written:  # it has no event
            await asyncio.sleep(0.001)
        if error is not None:
            raise error


async def test_the_block_raises_what_the_heartbeat_met() -> None:
    sink = Sink()
    sink.gone = True
    with pytest.raises(ConnectionResetError):
        await until_started(sink, None)


async def test_the_blocks_own_error_goes_first() -> None:
    sink = Sink()
    sink.gone = True
    with pytest.raises(LlbError, match="own"):
        await until_started(sink, LlbError("own"))


CHAT_DELTA = b'data: {"choices":[{"delta":{"content":"data: [DONE]"},"finish_reason":null,"index":0}]}\n\n'
CHAT_FINISH = b'data: {"choices":[{"delta":{},"finish_reason":"stop","index":0}]}\n\n'
MESSAGE_DELTA = (
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},'
    b'"usage":{"input_tokens":31,"output_tokens":3}}\n\n'
)
MESSAGE_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
TEXT_DELTA = b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"a"}\n\n'
RESPONSE_END = (
    b'event: response.%b\ndata: {"type":"response.%b","response":{"usage":'
    b'{"input_tokens":31,"output_tokens":3}}}\n\n'
)
# What the client has received when it leaves, and what the engine sends after that.
ANSWERED = {
    "after the finish reason": (CHAT_DELTA + CHAT_FINISH, LAST),
    "after a finish reason with spaces": (CHAT_FINISH.replace(b'":', b'": '), LAST),
    "after the counts": (CHAT_FINISH + LAST.partition(b"data: [DONE]")[0], b""),
    "after [DONE]": (CHAT_FINISH + LAST, b""),
    "after [DONE], without a finish reason": (CHAT_DELTA + LAST, b""),
    "after the stop reason": (MESSAGE_DELTA, MESSAGE_STOP),
    "after message_stop": (MESSAGE_DELTA + MESSAGE_STOP, b""),
    "after response.completed": (TEXT_DELTA + RESPONSE_END % (b"completed", b"completed"), b""),
    "after response.incomplete": (TEXT_DELTA + RESPONSE_END % (b"incomplete", b"incomplete"), b""),
}
UNANSWERED = {
    "in the middle": (CHAT_DELTA, CHAT_FINISH + LAST),
    "in the middle of a message": (b'event: message_start\ndata: {"message":{"stop_reason":null}}\n\n', b""),
    "in the middle of Responses": (TEXT_DELTA, RESPONSE_END % (b"completed", b"completed")),
}


async def leave(
    http_client: HttpClient, received: bytes, rest: bytes, *, ends: bool = False
) -> list[RelayResult]:
    """Return the outcomes reported for a client that leaves when it has received `received`."""
    sink, has_left = Sink(), asyncio.Event()
    results: list[RelayResult] = []

    async def answer(exchange: Exchange) -> None:
        await exchange.send(SSE_HEAD)
        await exchange.send_chunk(received)
        await has_left.wait()
        if rest:
            await exchange.send_chunk(rest)
        if ends:
            await exchange.end_body()
        await exchange.client_closed.wait()

    async with run_fake_engine(answer) as served:
        response = await ask(http_client, served)
        task = asyncio.ensure_future(relay_response(response, sink, on_client_left=results.append))
        await sink.until(1)
        task.cancel()
        has_left.set()
        await asyncio.wait([task])
        assert task.cancelled()
        await served.wait_for_open_connections(0)
    return results


@pytest.mark.parametrize("when", ANSWERED)
async def test_a_client_that_leaves_after_the_end_has_its_answer(http_client: HttpClient, when: str) -> None:
    [result] = await leave(http_client, *ANSWERED[when])
    assert (result.error, result.stream) == (None, True)
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (31, 3)


@pytest.mark.parametrize("when", UNANSWERED)
async def test_a_client_that_leaves_before_the_end_has_no_answer(http_client: HttpClient, when: str) -> None:
    assert await leave(http_client, *UNANSWERED[when]) == []


async def test_counts_that_do_not_come_are_not_awaited_for_long(http_client: HttpClient) -> None:
    """The slot of a client that has left is needed by others."""
    [result] = await leave(http_client, CHAT_FINISH, b"")
    assert result.usage.completion_tokens is None
