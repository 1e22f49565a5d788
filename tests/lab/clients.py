"""Constant clients of an OpenAI-compatible address: each asks, reads the answer to its end, and asks again.

    python -m tests.lab.clients URL --key sk-… --model ID --records FILE [--clients 32] [--stream half] [--sessions half] [--retry]

Prints "begun" when they have, and continues until SIGTERM or SIGINT; then the requests under way are finished,
none is begun. Every attempt is one JSON line in FILE (`tests.lab.records.Record`).
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec

from llb.base.tasks import TaskSupervisor
from tests.lab.exchange import ResponseReader, send_request
from tests.lab.records import AttemptRecord

CONNECT_TIMEOUT_S = 5.0
REQUEST_TIMEOUT_S = 60.0
BACKOFF_INITIAL_S, BACKOFF_MAX_S = 0.1, 2.0  # and what Retry-After says, up to the latter
RETRY_DEADLINE_S = 60.0
CLIENT_SELECTIONS: dict[str, Callable[[int], bool]] = {
    "none": lambda number: False,
    "half": lambda number: number % 2 == 0,
    "all": lambda number: True,
}


class LoadClient:
    """One client; it stops between two requests once `stop` is set."""

    def __init__(self, number: int, options: argparse.Namespace, out: BinaryIO, stop: asyncio.Event) -> None:
        self._client_number = number
        self._options = options
        self._records_file = out
        self._stop = stop
        self._stream = CLIENT_SELECTIONS[options.stream](number)
        self._session = f"lab-client-{number}" if CLIENT_SELECTIONS[options.sessions](number // 2) else None
        self._headers = {"Authorization": f"Bearer {options.key}"}
        if self._session is not None:
            self._headers["x-session-id"] = self._session

    async def run(self) -> None:
        request = 0
        while not self._stop.is_set():
            request += 1
            await self._send_with_retries(request)
            await _sleep_unless_stopped(self._stop, self._options.pause)

    async def _send_with_retries(self, request: int) -> None:
        words = f"I am client {self._client_number}. Question {request}: what comes next?"
        body = {
            "model": self._options.model,
            "messages": [{"role": "user", "content": words}],
            "max_tokens": self._options.max_tokens,
            "stream": self._stream,
        }
        began, attempt, pause_s = time.monotonic(), 0, BACKOFF_INITIAL_S
        while True:
            attempt += 1
            answer, start_s = ResponseReader(stream=self._stream), time.monotonic()
            await send_request(
                f"{self._options.url}/v1/chat/completions",
                msgspec.json.encode(body),
                self._headers,
                answer,
                connect_timeout_s=CONNECT_TIMEOUT_S,
                timeout_s=REQUEST_TIMEOUT_S,
            )
            self._write_record(request, attempt, start_s, answer)
            if answer.error is None or not self._options.retry or time.monotonic() - began > RETRY_DEADLINE_S:
                return
            await asyncio.sleep(min(BACKOFF_MAX_S, max(pause_s, answer.retry_after_s or 0.0)))
            pause_s = min(BACKOFF_MAX_S, 2 * pause_s)

    def _write_record(self, request: int, attempt: int, start_s: float, answer: ResponseReader) -> None:
        record = AttemptRecord(
            client=self._client_number,
            request=request,
            attempt=attempt,
            session=self._session,
            start_s=start_s,
            first_byte_s=answer.first_byte_s,
            end_s=time.monotonic(),
            status=answer.status,
            node=answer.node,
            error=answer.error,
        )
        self._records_file.write(msgspec.json.encode(record) + b"\n")


async def _sleep_unless_stopped(stop: asyncio.Event, seconds: float) -> None:
    """Wait, but not once `stop` is set."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        pass


async def run_clients(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    group = TaskSupervisor("lab")
    with options.records.open("wb", buffering=0) as out:
        clients = [
            group.spawn(LoadClient(number, options, out, stop).run(), f"client-{number}")
            for number in range(options.clients)
        ]
        print("begun", flush=True)
        await asyncio.gather(*clients)
    await group.close()


def build_parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m tests.lab.clients", description=(__doc__ or "").partition("\n")[0]
    )
    p.add_argument("url", help="without /v1")
    p.add_argument("--key", required=True)
    p.add_argument("--model", required=True)
    p.add_argument("--records", type=Path, required=True)
    p.add_argument("--clients", type=int, default=32)
    p.add_argument("--max-tokens", type=int, default=8)
    p.add_argument("--pause", type=float, default=0.0, help="seconds between two requests of a client")
    p.add_argument("--retry", action="store_true", help="ask again what failed, with growing pauses")
    share = functools.partial(p.add_argument, choices=CLIENT_SELECTIONS, default="half")
    share("--stream", help="which clients stream")
    share("--sessions", help="which clients send x-session-id")
    return p


if __name__ == "__main__":
    asyncio.run(run_clients(build_parser().parse_args()))
