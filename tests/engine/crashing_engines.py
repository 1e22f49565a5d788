"""Hosts whose engines are `fake_llama_server`, and victims whose requests must continue while others fail."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest

from llb.engine import watch_policy
from llb.gateway.stream.keepalive import SseKeepalive
from tests.harness import RunningBalancer

FAKE_LLAMA_SERVER = Path(__file__).with_name("fake_llama_server.py")
ENDLESS_TOKENS = 100_000


class CrashingEngines:
    """Starts of all engines, and requests to them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._journal = folder / "engines"
        self._answers = folder / "answers"
        command = (
            *(sys.executable, "-I", "-S", str(FAKE_LLAMA_SERVER)),
            *("--journal", str(self._journal), "--answers", str(self._answers)),
        )
        monkeypatch.setattr("llb.engine.process.engine_command", lambda: command)
        monkeypatch.setattr(watch_policy, "MIN_SILENCE_S", 0.5)
        monkeypatch.setattr(watch_policy, "SILENCE_FACTOR", 0.01)
        # On a busy machine the loops get little of a core.
        monkeypatch.setattr(watch_policy, "MIN_COMPUTING_SHARE", 0.01)
        # After a long silence a comment would come first, and with it a head that names no node.
        monkeypatch.setattr("llb.gateway.dispatcher.SseKeepalive", partial(SseKeepalive, interval_s=3600.0))
        # The tests do not wait between a victim and the attack.
        monkeypatch.setattr(watch_policy, "SAME_TIME_S", 0.001)

    @property
    def pids(self) -> list[int]:
        """Processes of all starts so far."""
        return [int(line) for line in self._journal.read_text().split()] if self._journal.exists() else []

    def answers_begun(self, what: str = "progress") -> int:
        """Answers of which a client has something, in any engine; or requests that `LOOP`."""
        return self._answers.read_text().split().count(what) if self._answers.exists() else 0

    @property
    def alive(self) -> list[int]:
        return [pid for pid in self.pids if _is_running(pid)]


def _is_running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        # The second one where it ends meanwhile.
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


async def ask(
    llb: RunningBalancer, content: str = "count", *, key: str | None = None, **fields: object
) -> httpx.Response:
    body = {"model": "chat", "messages": [{"role": "user", "content": content}], **fields}
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return await llb.http.post("/v1/chat/completions", json=body, headers=headers)


def error_code(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["code"])


class Victim:
    """Endless stream of another key; `error_code` is that of the event that ended it."""

    def __init__(self, node_name: str) -> None:
        self.node_name = node_name
        self.error_code: str | None = None
        self.ended = asyncio.Event()


@asynccontextmanager
async def victim_stream(llb: RunningBalancer, key: str) -> AsyncIterator[Victim]:
    """A stream that has received its first token."""
    body = {
        "model": "chat",
        "messages": [{"role": "user", "content": "count"}],
        "max_tokens": ENDLESS_TOKENS,
        "stream": True,
    }
    headers = {"Authorization": f"Bearer {key}"}
    async with llb.http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
        assert answer.status_code == 200
        lines = answer.aiter_lines()
        await anext(lines)
        victim = Victim(answer.headers["x-llb-node"])
        reading = asyncio.ensure_future(_read_to_end(victim, lines))
        yield victim
        reading.cancel()
        await asyncio.wait([reading])


async def _read_to_end(victim: Victim, lines: AsyncIterator[str]) -> None:
    async for line in lines:
        if line.startswith("data: ") and '"error"' in line:
            victim.error_code = line.partition('"code":"')[2].partition('"')[0]
    victim.ended.set()
