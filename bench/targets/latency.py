"""Time that llb adds to an answer of an engine elsewhere, with the same engine asked straight."""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import psutil

from tests.processes import ROOT, LlbProcess, clean_environment

WARM_UP_REQUESTS = 10
_STARTED = re.compile(r"^(?P<kind>\S+): (?P<url>\S+) \((?P<models>[^)]*)\)$")


@dataclass(frozen=True)
class StandInProcess:
    """A stand-in of `tests.providers` in a process of its own."""

    base_url: str
    models: tuple[str, ...]


@contextmanager
def run_stand_in(kind: str, *models: str) -> Iterator[StandInProcess]:
    """Run a stand-in until the end of the block."""
    flags = [flag for model in models for flag in ("--model", model)]
    command = [sys.executable, "-m", "tests.providers", kind, *flags]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=clean_environment()
    ) as process:
        try:
            assert process.stdout is not None
            started = _STARTED.match(process.stdout.readline())
            assert started is not None
            yield StandInProcess(started["url"], tuple(started["models"].split(", ")))
        finally:
            process.terminate()


class ChatClient:
    """Minimal HTTP client on one connection, so that it adds little time.

    A chat, or Anthropic's Messages where the engine has no other dialect.
    """

    def __init__(self, base_url: str, model: str, key: str = "none", *, is_anthropic: bool = False) -> None:
        url = urlsplit(base_url)
        assert url.hostname is not None
        self._host, self._port = url.hostname, url.port
        self._path = url.path + ("/messages" if is_anthropic else "/chat/completions")
        self._requests = {
            stream: self._build_request(
                {
                    "model": model,
                    "messages": [{"role": "user", "content": "Hi"}],
                    "max_tokens": 16,
                    "stream": stream,
                },
                key,
            )
            for stream in (False, True)
        }

    def _build_request(self, question: dict[str, object], key: str) -> bytes:
        body = json.dumps(question).encode()
        head = (
            f"POST {self._path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
            f"Authorization: Bearer {key}\r\nanthropic-version: 2023-06-01\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)

    async def measure_document_s(self) -> float:
        """Return the seconds until a whole answer has come."""
        began = time.perf_counter()
        self._writer.write(self._requests[False])
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", head.lower())
        assert head.startswith(b"HTTP/1.1 200"), head
        assert length is not None, head
        await self._reader.readexactly(int(length[1]))
        return time.perf_counter() - began

    async def measure_first_chunk_s(self) -> float:
        """Return the seconds until the first event of a stream has come; read the rest of it, too."""
        began = time.perf_counter()
        self._writer.write(self._requests[True])
        await self._reader.readuntil(b"data: ")
        first_s = time.perf_counter() - began
        await self._reader.readuntil(b"\r\n0\r\n\r\n")
        return first_s

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


@dataclass(frozen=True)
class AddedTime:
    """Medians of pairs of requests, straight and through llb in turn, in milliseconds.

    `processor_ms` is the mean processor time of llb, which depends less on other load.
    """

    straight_ms: float
    added_ms: float
    processor_ms: float


async def measure_added(
    straight: ChatClient, through: ChatClient, llb: psutil.Process, pairs: int
) -> tuple[AddedTime, AddedTime]:
    """Return what llb adds to a whole document, and to the first chunk of a stream."""
    await straight.open()
    await through.open()
    results = []
    for name in ("measure_document_s", "measure_first_chunk_s"):
        for _ in range(WARM_UP_REQUESTS):
            await getattr(through, name)()
        began_s = _processor_s(llb)
        times = [(await getattr(straight, name)(), await getattr(through, name)()) for _ in range(pairs)]
        processor_s = (_processor_s(llb) - began_s) / pairs
        results.append(
            AddedTime(
                statistics.median(alone for alone, _ in times) * 1e3,
                statistics.median(with_llb - alone for alone, with_llb in times) * 1e3,
                processor_s * 1e3,
            )
        )
    await straight.close()
    await through.close()
    return results[0], results[1]


def _processor_s(process: psutil.Process) -> float:
    return float(sum(process.cpu_times()[:2]))


def add_endpoint(llb: LlbProcess, base_url: str, name: str, kind: str, **fields: object) -> str:
    """Add an endpoint; returns its id."""
    body = {"base_url": base_url, "name": name, "kind": kind, **fields}
    answer = llb.http.post("/api/endpoints", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def create_key(llb: LlbProcess, *scopes: str) -> str:
    answer = llb.http.post("/api/keys", json={"name": "bench", "scopes": ["inference", *scopes]})
    return str(answer.json()["key"])


async def measure_kind(llb: LlbProcess, key: str, kind: str, pairs: int) -> tuple[AddedTime, AddedTime]:
    """Return what llb adds in front of a stand-in of `kind`."""
    with run_stand_in(kind) as stand_in:
        add_endpoint(llb, stand_in.base_url, f"bench-{kind}", kind)
        model = stand_in.models[0]
        separator = ":" if kind in ("google", "anthropic") else "/"
        straight = ChatClient(stand_in.base_url, model, is_anthropic=kind == "anthropic")
        through = ChatClient(f"{llb.url}/v1", f"bench-{kind}{separator}{model}", key)
        return await measure_added(straight, through, psutil.Process(llb.pid), pairs)
