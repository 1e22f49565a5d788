"""The real llama-server, in a process of its own and without llb."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from llb.gateway.http.client import HttpClient, UpstreamTarget
from llb.gateway.http.response import UpstreamResponse
from llb.hardware import engine_environment

API_KEY = "sk-real"
_AUTHORIZATION = {"Authorization": f"Bearer {API_KEY}"}
# The engine looks for cancelled requests between batches of a prompt: a small batch is a prompt release.
WORKER_SOURCE = """
import os, sys, xllamacpp
p = xllamacpp.CommonParams()
p.model.path, p.api_keys = sys.argv[1], [sys.argv[2]]
p.n_ctx, p.n_parallel, p.n_batch, p.port = int(sys.argv[4]), int(sys.argv[3]), 64, 0
# One thread: a second one would wait for a core that other tests hold.
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
p.warmup = False
server = xllamacpp.Server(p)
print(server.listening_address, flush=True)
sys.stdin.read()  # until the tests have gone
os._exit(0)
"""


class RealEngine:
    def __init__(self, target: UpstreamTarget, log: Path) -> None:
        self.target = target
        self._log = log
        self._read = 0

    def forget_log(self) -> None:
        """Make `logged` ignore the lines so far."""
        self._read = self._log.stat().st_size

    async def wait_until_processing(self) -> None:
        """Wait until a slot has a request. (The log reports a prompt only after three seconds.)"""
        address = f"http://{self.target.host}:{self.target.port}"
        async with (
            asyncio.timeout(60),
            httpx.AsyncClient(base_url=address, headers=_AUTHORIZATION, trust_env=False) as client,
        ):
            while True:
                slots = (await client.get("/slots", timeout=60)).raise_for_status().json()
                if any(slot["is_processing"] for slot in slots):
                    return
                await asyncio.sleep(0.01)

    async def wait_for_log(self, text: str) -> None:
        """Wait until a new line of the engine's log contains `text`."""
        async with asyncio.timeout(60):
            while True:
                for line in self._log.read_bytes()[self._read :].splitlines(keepends=True):
                    if not line.endswith(b"\n"):
                        break
                    self._read += len(line)
                    if text.encode() in line:
                        return
                await asyncio.sleep(0.01)


@contextmanager
def real_engine(model: Path, log: Path, *, slots: int, context: int) -> Iterator[RealEngine]:
    """llama-server for `model`."""
    with log.open("wb") as errors:
        child = subprocess.Popen(
            [sys.executable, "-c", WORKER_SOURCE, str(model), API_KEY, str(slots), str(context)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=engine_environment(os.environ),
        )  # fmt: skip
    with child:
        try:
            assert child.stdout is not None
            address = child.stdout.readline().decode().strip()
            assert address, log.read_text(errors="replace")
            yield RealEngine(UpstreamTarget("127.0.0.1", int(address.rpartition(":")[2]), API_KEY), log)
        finally:
            child.kill()


async def post_json(
    http_client: HttpClient, engine: RealEngine, body: dict[str, Any], path: bytes = b"/v1/chat/completions"
) -> UpstreamResponse:
    return await http_client.request(
        engine.target,
        b"POST",
        path,
        [(b"Content-Type", b"application/json")],
        json.dumps(body).encode(),
        connect_timeout_s=5,
        header_timeout_s=60,
    )


def chat_body(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **fields}
