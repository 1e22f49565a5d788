"""Victim of the attacks: keeps sending requests and records their results and times."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass

import msgspec

from tests.attack.target import CHAT_MODEL
from tests.lab.exchange import ResponseReader, send_request

CLIENT_COUNT = 3
PAUSE_S = 0.5
CONNECT_TIMEOUT_S = 5.0
REQUEST_TIMEOUT_S = 60.0
MAX_TOKENS = 8


@dataclass(frozen=True)
class Outcome:
    """One request of the victim; times are of `time.monotonic()`."""

    began_s: float
    first_byte_s: float | None
    ended_s: float
    error: str | None  # as a client would call it, in a few words

    @property
    def wait_s(self) -> float:
        """Time to the first piece of the answer, or to its failure."""
        return (self.first_byte_s if self.first_byte_s is not None else self.ended_s) - self.began_s


class Victim:
    """`with Victim(url, key) as victim:` asks from a thread with an event loop of its own."""

    def __init__(self, url: str, key: str) -> None:
        self.outcomes: list[Outcome] = []
        self._url, self._key = url, key
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="victim")

    def __enter__(self) -> Victim:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    async def _run(self) -> None:
        await asyncio.gather(*(self._run_client(number) for number in range(CLIENT_COUNT)))

    async def _run_client(self, number: int) -> None:
        request = 0
        while not self._stopped.is_set():
            request += 1
            body = {
                "model": CHAT_MODEL,
                "messages": [{"role": "user", "content": f"Client {number}, question {request}: what now?"}],
                "max_tokens": MAX_TOKENS,
                "stream": number > 0,
            }
            reader, began_s = ResponseReader(stream=number > 0), time.monotonic()
            await send_request(
                f"{self._url}/v1/chat/completions",
                msgspec.json.encode(body),
                {"Authorization": f"Bearer {self._key}"},
                reader,
                connect_timeout_s=CONNECT_TIMEOUT_S,
                timeout_s=REQUEST_TIMEOUT_S,
            )
            self.outcomes.append(Outcome(began_s, reader.first_byte_s, time.monotonic(), reader.error))
            await asyncio.sleep(PAUSE_S)
