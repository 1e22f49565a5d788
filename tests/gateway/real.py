"""The real llama-server, in a process of its own and without llb."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from llb.gateway.http.client import HttpClient, UpstreamTarget
from llb.gateway.http.response import UpstreamResponse

KEY = "sk-real"
# The engine looks for cancelled requests between batches of a prompt: a small batch is a prompt release.
WORKER = """
import os, sys, xllamacpp
p = xllamacpp.CommonParams()
p.model.path, p.api_keys = sys.argv[1], [sys.argv[2]]
p.n_ctx, p.n_parallel, p.n_batch, p.port = 4096, int(sys.argv[3]), 64, 0
server = xllamacpp.Server(p)
print(server.listening_address, flush=True)
sys.stdin.read()
os._exit(0)
"""


class RealEngine:
    def __init__(self, target: UpstreamTarget, log: asyncio.StreamReader) -> None:
        self.target = target
        self._log = log

    async def logged(self, text: str) -> None:
        """Wait until a new line of the engine's log contains `text`."""
        async with asyncio.timeout(60):
            while line := await self._log.readline():
                if text.encode() in line:
                    return
        raise AssertionError("the engine's log has ended")


@asynccontextmanager
async def real_engine(model: Path, *, slots: int = 1) -> AsyncIterator[RealEngine]:
    """llama-server for `model`."""
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKER, str(model), KEY, str(slots), stdin=pipe, stdout=pipe, stderr=pipe
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    try:
        async with asyncio.timeout(60):
            address = (await child.stdout.readline()).decode().strip()
        yield RealEngine(UpstreamTarget("127.0.0.1", int(address.rpartition(":")[2]), KEY), child.stderr)
    finally:
        child.stdin.close()
        try:
            async with asyncio.timeout(20):
                await child.communicate()
        except TimeoutError:
            child.kill()
            await child.wait()


async def ask(
    upstream: HttpClient, engine: RealEngine, body: dict[str, Any], path: bytes = b"/v1/chat/completions"
) -> UpstreamResponse:
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
