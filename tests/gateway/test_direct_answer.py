"""Direct answer: an ordinary call is answered by callbacks, and a task takes over where something is not."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace

from llb.engine.spec import WorkerReady
from llb.errors import EngineFailed, InvalidApiKey, TooManyCrashes
from llb.gateway import engine_exchange
from llb.gateway.admission.crash_quarantine import Quarantine
from llb.gateway.direct_answer import DirectAnswer
from llb.gateway.http.client import HttpClient
from llb.gateway.inference_call import InferenceCall
from llb.gateway.running_call import RunningCall
from llb.gateway.stream.relay import RelayTimeouts
from llb.gateway.stream.sse import SSE_KEEPALIVE
from llb.security.permissions import KeyAllowance
from llb.wire import KeyLimits
from tests.gateway.fake_engine import SSE_HEAD, Exchange, FakeEngine, ResponseHandler, run_fake_engine
from tests.gateway.gateway_fixture import DOCUMENT, LOCAL, FakeSink, Gateway, make_call

DEADLINE_S = 30.0
TOKEN = b'data: {"choices":[{"delta":{"role":"assistant","content":"Hi"}}]}\n\n'
END = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\ndata: [DONE]\n\n'


class DirectSink(FakeSink):
    """The client, which reads whatever is written; `is_slow` lets it fall behind."""

    def __init__(self) -> None:
        super().__init__()
        self.is_slow = False
        self.is_ended = False
        self.was_written = asyncio.Event()

    def write_now(self, data: bytes, *, last: bool = False) -> None:
        self.started = True
        self.body += data
        self.was_written.set()
        self.is_ended = self.is_ended or last

    def open_pipe(self) -> Pipe:
        return Pipe(self)


class Pipe:
    def __init__(self, sink: DirectSink) -> None:
        self._sink = sink

    def write_chunk(self, events: bytes) -> bool:
        self._sink.write_now(events)
        return not self._sink.is_slow

    def write_frame(self, events: bytes, _frame: bytes, _is_single: bool) -> bool:
        return self.write_chunk(events)

    async def wait_writable(self) -> None:
        self._sink.is_slow = False


class DirectGateway(Gateway):
    """The gateway of the dispatcher's tests, with a real HTTP client and an engine at `engine`."""

    def __init__(self, http_client: HttpClient, engine: FakeEngine) -> None:
        super().__init__(LOCAL)
        target = engine.target
        self.worker = WorkerReady(host=target.host, port=target.port, context_length=4096, slots=1)
        self.context = replace(self.context, http_client=http_client)
        self.dispatcher = self.make_dispatcher()


class Answer:
    """A call that callbacks answer; `outcome` says how that ended."""

    def __init__(self, gateway: DirectGateway, *, stream: bool, keepalive_s: float = DEADLINE_S) -> None:
        self.sink = DirectSink()
        self.running: RunningCall = gateway.dispatcher.begin(
            make_call(stream=stream, fits_any_template=True), self.sink
        )
        self.outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        assert gateway.dispatcher.send_directly(self.running)
        attempt = self.running.attempt
        assert attempt is not None
        begun = attempt.exchange.begun
        assert begun is not None
        assert begun.response is not None
        answer = DirectAnswer(
            attempt,
            begun.response,
            self.sink,
            self,
            keepalive_s=keepalive_s,
        )
        self.running.hand_over(answer.stop)

    def on_answered(self) -> None:
        self.outcome.set_result("answered")

    def on_stopped(self) -> None:
        self.outcome.set_result("stopped")

    def on_failed(self, error: Exception) -> None:
        self.outcome.set_exception(error)


@asynccontextmanager
async def gateway_of(handler: ResponseHandler) -> AsyncIterator[DirectGateway]:
    """A gateway with an idle connection to its engine, without which a task has to answer."""

    async def answer(exchange: Exchange) -> None:
        await (exchange.send_json(DOCUMENT) if len(engine.exchanges) == 1 else handler(exchange))

    async with asyncio.timeout(DEADLINE_S), run_fake_engine(answer) as engine:
        gateway = DirectGateway(HttpClient(), engine)
        try:
            assert await gateway.dispatcher.dispatch(make_call(fits_any_template=True), FakeSink())
            yield gateway
            gateway.assert_idle()
        finally:
            await gateway.dispatcher.close()


async def test_a_stream_reaches_its_end_without_a_task() -> None:
    async def stream(exchange: Exchange) -> None:
        await exchange.send(SSE_HEAD)
        for _ in range(3):
            await exchange.send_chunk(TOKEN)
        await exchange.send_chunk(END)
        await exchange.end_body()

    async with gateway_of(stream) as gateway:
        answer = Answer(gateway, stream=True)
        assert await answer.outcome == "answered"
        assert answer.sink.body == 3 * TOKEN + END
        assert answer.sink.is_ended
        assert answer.running.call.record.usage.completion_tokens == 2
        assert answer.running.call.record.is_answered
        gateway.dispatcher.finish_directly(answer.running)


@pytest.mark.parametrize("before", [b"", TOKEN], ids=["before the first event", "later"])
async def test_a_silent_stream_gets_comments_without_a_task(before: bytes) -> None:
    async def fall_silent(exchange: Exchange) -> None:
        await exchange.send(SSE_HEAD)
        if before:
            await exchange.send_chunk(before)
        await has_comments.wait()
        await exchange.send_chunk(END)
        await exchange.end_body()

    has_comments = asyncio.Event()
    async with gateway_of(fall_silent) as gateway:
        answer = Answer(gateway, stream=True, keepalive_s=0.01)
        while answer.sink.body.count(SSE_KEEPALIVE) < 2:
            answer.sink.was_written.clear()
            await answer.sink.was_written.wait()
        has_comments.set()
        assert await answer.outcome == "answered"
        assert answer.sink.body.replace(SSE_KEEPALIVE, b"") == before + END
        gateway.dispatcher.finish_directly(answer.running)


async def test_a_long_prompt_gets_each_comment_without_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    async def read_the_prompt(exchange: Exchange) -> None:
        await exchange.send(SSE_HEAD)
        await has_comments.wait()
        await exchange.send_chunk(END)
        await exchange.end_body()

    has_comments = asyncio.Event()
    keepalive_s = 0.01
    async with gateway_of(read_the_prompt) as gateway:
        answer = Answer(gateway, stream=True, keepalive_s=keepalive_s)
        with monkeypatch.context() as patch:
            # The limit between two events of an answer; reading a prompt may take longer.
            patch.setattr(engine_exchange, "USUAL_TIMEOUTS", RelayTimeouts(idle_s=2 * keepalive_s))
            while answer.sink.body.count(SSE_KEEPALIVE) < 3:
                answer.sink.was_written.clear()
                await answer.sink.was_written.wait()
        has_comments.set()
        assert await answer.outcome == "answered"
        gateway.dispatcher.finish_directly(answer.running)


@pytest.mark.parametrize("code", ["invalid_api_key", "engine_timeout"])
async def test_a_silent_stream_ends_with_its_key_and_at_its_deadline(code: str) -> None:
    async def fall_silent(exchange: Exchange) -> None:
        await exchange.send(SSE_HEAD)
        await exchange.send_chunk(TOKEN)
        await is_ended.wait()

    is_ended = asyncio.Event()
    async with gateway_of(fall_silent) as gateway:
        answer = Answer(gateway, stream=True)
        await answer.sink.was_written.wait()
        running = answer.running
        if code == "engine_timeout":
            running.is_expired = True
            running.expire()
        else:
            running.error = InvalidApiKey("The API key was revoked")
            running.on_ended()
        assert await answer.outcome == "stopped"
        assert await gateway.dispatcher.resume(running) is None
        assert answer.sink.body.startswith(TOKEN + b'data: {"error":{')
        assert b'"code":"%b"' % code.encode() in answer.sink.body
        assert running.call.record.error_code == code
        is_ended.set()


async def test_a_task_reports_why_no_connection_could_be_made() -> None:
    async with gateway_of(lambda exchange: exchange.send_json(DOCUMENT)) as gateway:
        with socket.socket() as unanswering:
            unanswering.bind(("127.0.0.1", 0))
            gateway.worker = replace(gateway.worker, port=unanswering.getsockname()[1])
            running = gateway.dispatcher.begin(make_call(fits_any_template=True), FakeSink())
            assert gateway.dispatcher.send_directly(running)
            assert running.attempt is not None
            failed = asyncio.Event()
            running.attempt.exchange.connect(lambda response: failed.set() if response is None else None)
            await failed.wait()
            with pytest.raises(EngineFailed, match="cannot be reached"):
                await gateway.dispatcher.resume(running)


async def test_a_document_is_written_without_a_task() -> None:
    async with gateway_of(lambda exchange: exchange.send_json(DOCUMENT)) as gateway:
        answer = Answer(gateway, stream=False)
        assert await answer.outcome == "answered"
        assert (answer.sink.body, answer.sink.is_ended) == (DOCUMENT, True)
        gateway.dispatcher.finish_directly(answer.running)


async def test_a_task_continues_for_a_client_that_falls_behind() -> None:
    async def stream(exchange: Exchange) -> None:
        await exchange.send(SSE_HEAD)
        await exchange.send_chunk(TOKEN)
        await is_behind.wait()
        await exchange.send_chunk(TOKEN)
        await is_taken_over.wait()
        await exchange.send_chunk(END)
        await exchange.end_body()

    is_behind, is_taken_over = asyncio.Event(), asyncio.Event()
    async with gateway_of(stream) as gateway:
        answer = Answer(gateway, stream=True)
        await answer.sink.was_written.wait()
        answer.sink.is_slow = True
        is_behind.set()
        assert await answer.outcome == "stopped"
        is_taken_over.set()
        assert await gateway.dispatcher.resume(answer.running)
        assert answer.sink.body == 2 * TOKEN + END
        assert answer.running.call.record.is_answered


async def test_a_task_tells_the_client_that_the_engine_broke_off() -> None:
    async def break_off(exchange: Exchange) -> None:
        await exchange.send(SSE_HEAD)
        await exchange.send_chunk(TOKEN)
        await is_read.wait()
        exchange.abort()

    is_read = asyncio.Event()
    async with gateway_of(break_off) as gateway:
        answer = Answer(gateway, stream=True)
        await answer.sink.was_written.wait()
        is_read.set()
        assert await answer.outcome == "stopped"
        result = await gateway.dispatcher.resume(answer.running)
        assert result is not None
        assert result.error is not None
        assert answer.sink.body.startswith(TOKEN + b'data: {"error"')
        assert not answer.running.call.record.is_answered


async def test_a_task_asks_again_where_the_engine_has_not_begun() -> None:
    async def fail_once(exchange: Exchange) -> None:
        if not failed.is_set():
            failed.set()
            exchange.abort()
            return
        await exchange.send_json(DOCUMENT)

    failed = asyncio.Event()
    async with gateway_of(fail_once) as gateway:
        gateway.nodes.recovering.add(LOCAL)
        answer = Answer(gateway, stream=False)
        assert await answer.outcome == "stopped"
        assert await gateway.dispatcher.resume(answer.running)
        assert answer.sink.body == DOCUMENT


async def test_a_call_that_a_task_refuses_no_longer_counts_against_its_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def limited_call() -> InferenceCall:
        call = make_call(fits_any_template=True)
        allowance = KeyAllowance("key", KeyLimits(concurrent=1))
        call.record.principal = replace(call.record.principal, allowances=(allowance,))
        return call

    def refuse(*_arguments: object) -> None:
        raise TooManyCrashes("Your requests have crashed an engine", retry_after_s=1)

    async with gateway_of(lambda exchange: exchange.send_json(DOCUMENT)) as gateway:
        gateway.is_loaded = False
        running = gateway.dispatcher.begin(limited_call(), FakeSink())
        assert not gateway.dispatcher.send_directly(running)
        with monkeypatch.context() as patch:
            # Another request of this caller has crashed the engine before the task of this one begins.
            patch.setattr(Quarantine, "check", refuse)
            with pytest.raises(TooManyCrashes):
                await gateway.dispatcher.resume(running)
        sink = FakeSink()
        await gateway.dispatcher.dispatch(limited_call(), sink)
        assert sink.body == DOCUMENT
