"""Clients of a chaos run: each asks one question after another, streamed or not."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable

import httpx

CLIENT_COUNT = 32
ANSWER_TOKENS = 4
REQUEST_TIMEOUT_S = 60.0
# Between two requests of a client: without it the clients take the processor that they measure.
MAX_PAUSE_S = 0.2


class Clients:
    """Clients of one model, from `async with` to its end.

    `outcomes` counts the answers. `defects` has each request that failed before its answer had begun: no
    fault of a target may cause one while another target is left.
    """

    def __init__(self, url: str, key: str, model: str, seed: int, count: int = CLIENT_COUNT) -> None:
        self.outcomes: Counter[str] = Counter()
        self.defects: list[str] = []
        self._model = model
        self._random = random.Random(seed)
        self._client = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=REQUEST_TIMEOUT_S,
            trust_env=False,
            limits=httpx.Limits(max_connections=count, max_keepalive_connections=count),
        )
        self._count = count
        self._answered = asyncio.Condition()
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Clients:
        self._tasks = [asyncio.create_task(self._run_client()) for _ in range(self._count)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)
        await self._client.aclose()

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; it is looked at whenever a request has ended."""
        async with self._answered:
            await self._answered.wait_for(condition)

    async def wait_for_answers(self, count: int) -> None:
        """Wait until `count` more requests have ended."""
        wanted = self.outcomes.total() + count
        await self.wait_until(lambda: self.outcomes.total() >= wanted)

    def count(self, outcome: str) -> int:
        """Return how many requests have ended so, streamed or not."""
        return sum(times for name, times in self.outcomes.items() if name.endswith(outcome))

    async def _run_client(self) -> None:
        while not self._stopping:
            stream = self._random.random() < 0.5
            try:
                outcome = await self._ask(stream=stream)
            except httpx.HTTPError as error:
                outcome = "refused"
                self.defects.append(f"{type(error).__name__}: {error}")
            async with self._answered:
                self.outcomes[f"{'stream' if stream else 'document'}: {outcome}"] += 1
                self._answered.notify_all()
            await asyncio.sleep(self._random.uniform(0, MAX_PAUSE_S))

    async def _ask(self, *, stream: bool) -> str:
        words = " ".join(self._random.choices(("red", "fish", "blue", "moon"), k=self._random.randint(1, 20)))
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": words}],
            "max_tokens": ANSWER_TOKENS,
            "stream": stream,
        }
        async with self._client.stream("POST", "/v1/chat/completions", json=body) as answer:
            if answer.status_code != 200:
                await answer.aread()
                self.defects.append(f"{answer.status_code}: {answer.text[:200]}")
                return "refused"
            return await (self._read_stream(answer) if stream else self._read_document(answer))

    async def _read_document(self, answer: httpx.Response) -> str:
        received = 0
        try:
            async for piece in answer.aiter_bytes():
                received += len(piece)
        except httpx.RemoteProtocolError:
            if not received:
                raise
            return "cut"
        return "whole"

    async def _read_stream(self, answer: httpx.Response) -> str:
        has_content = False
        async for line in answer.aiter_lines():
            if line == "data: [DONE]":
                return "whole"
            if not line.startswith("data: "):
                continue
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                if not has_content:
                    self.defects.append(f"stream: {event}")
                return "cut"
            has_content = has_content or any(choice["delta"].get("content") for choice in event["choices"])
        self.defects.append("a stream without an end")
        return "cut"
