"""The relay in front of the real llama-server.

The model has a few hundred kilobytes and a long context, and a token is a byte: a prompt that fills the
context is computed, and an answer is written, for longer than any of these tests waits.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from llb.errors import ContextLengthExceeded, InvalidRequest
from llb.gateway.http.client import HttpClient
from llb.gateway.http.engine_errors import translate_engine_error
from llb.gateway.stream.aggregator import ChatAggregator
from llb.gateway.stream.disconnect_detection import ProgressFilter, request_progress
from llb.gateway.stream.relay import EventRelay, relay_aggregated, relay_response
from tests.conftest import ENDLESS_CONTEXT
from tests.gateway.conftest import Engines
from tests.gateway.real_engine import RealEngine, chat_body, post_json

LONG_PROMPT = "word " * 12_000


@pytest.fixture
def real(engines: Engines, endless_gguf: Path) -> RealEngine:
    return engines(endless_gguf, 1, ENDLESS_CONTEXT)


class Sink:
    def __init__(self) -> None:
        self.got = b""
        self.wrote = asyncio.Event()

    async def write(self, data: bytes, /, *, last: bool = False) -> None:
        self.got += data
        self.wrote.set()


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_with_its_counts(http_client: HttpClient, real: RealEngine, stream: bool) -> None:
    sink = Sink()
    response = await post_json(http_client, real, chat_body("Say hello", max_tokens=4, stream=stream))
    result = await relay_response(response, sink)
    assert result.error is None
    assert result.stream is stream
    assert result.usage.completion_tokens == 4
    assert result.usage.prompt_tokens is not None
    assert result.usage.prompt_tokens > 4
    assert result.usage.prefill_ms
    if stream:
        assert sink.got.endswith(b"data: [DONE]\n\n")
    else:
        assert json.loads(sink.got)["usage"]["completion_tokens"] == 4
    assert http_client.idle_connections == 1


async def test_what_it_refuses(http_client: HttpClient, real: RealEngine) -> None:
    async def refused(body: dict[str, Any], path: bytes = b"/v1/chat/completions") -> Exception:
        response = await post_json(http_client, real, body, path)
        return translate_engine_error(response.status, await response.read(1 << 20, 60))

    for stream in (True, False):
        too_long = await refused(chat_body("word " * 14_000, stream=stream))
        assert isinstance(too_long, ContextLengthExceeded)
        assert too_long.details["context_length"] == ENDLESS_CONTEXT
    for body, path in (
        (chat_body("a", temperature="hot"), b"/v1/chat/completions"),
        ({}, b"/v1/chat/completions"),
        ({"input": "a"}, b"/v1/embeddings"),
    ):
        assert type(await refused(body, path)) is InvalidRequest


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_in_prefill_frees_the_slot(
    http_client: HttpClient, real: RealEngine, stream: bool
) -> None:
    sink = Sink()

    async def client() -> None:
        await relay_response(await post_json(http_client, real, chat_body(LONG_PROMPT, stream=stream)), sink)

    task = asyncio.ensure_future(client())
    await real.wait_until_processing()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert sink.got == b""
    await real.wait_for_log("cancel task")
    await real.wait_for_log("stop processing")
    after = Sink()
    result = await relay_response(await post_json(http_client, real, chat_body("Hello", max_tokens=2)), after)
    assert result.usage.completion_tokens == 2


async def test_leaving_in_the_stream_frees_the_slot(http_client: HttpClient, real: RealEngine) -> None:
    sink = Sink()
    response = await post_json(
        http_client, real, chat_body("Count", stream=True, max_tokens=60_000, ignore_eos=True)
    )
    task = asyncio.ensure_future(relay_response(response, sink))
    await sink.wrote.wait()
    task.cancel()
    await asyncio.wait([task])
    await real.wait_for_log("cancel task")
    await real.wait_for_log("stop processing")


@pytest.mark.parametrize("at", ["the prompt", "a stream's prompt", "the answer"])
async def test_leaving_during_another_clients_stream(
    http_client: HttpClient, engines: Engines, endless_gguf: Path, at: str
) -> None:
    """llama-server by itself would go on: it looks for the client only when a second brings no result to
    anybody.
    """
    real = engines(endless_gguf, 2, 2 * ENDLESS_CONTEXT)
    other = Sink()
    forever = chat_body("Count", stream=True, max_tokens=60_000, ignore_eos=True)
    beside = asyncio.ensure_future(relay_response(await post_json(http_client, real, forever), other))
    await other.wrote.wait()

    stream = at == "a stream's prompt"
    text = "Count to a hundred" if at == "the answer" else LONG_PROMPT
    body = chat_body(text, max_tokens=60_000, ignore_eos=True)
    if stream:
        body["stream"] = True
    asked = json.loads(request_progress(json.dumps(body).encode(), stream=stream))
    response = await post_json(http_client, real, asked)
    whole = ChatAggregator()

    async def leaver() -> None:
        if stream:
            await relay_response(
                response, Sink(), begun=EventRelay(response, opening_filter=ProgressFilter())
            )
        else:
            await relay_aggregated(response, Sink(), whole)

    task = asyncio.ensure_future(leaver())
    if at == "the answer":
        async with asyncio.timeout(60):
            while not whole.has_started:
                await asyncio.sleep(0.01)
    else:
        # The response began with the first progress of its prompt, so that is being computed.
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    await real.wait_for_log("cancel task")
    assert not beside.done()
    beside.cancel()
    await asyncio.wait([beside])
    await real.wait_for_log("cancel task")
