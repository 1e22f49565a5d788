"""What many clients ask of a balancer, in every dialect, some of them leaving in the middle; and what came of it."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections import Counter
from collections.abc import Awaitable, Callable

import httpx
import websockets.asyncio.client
from websockets.exceptions import WebSocketException

from tests.soak.cluster_fixture import CHAT, REAL

CLIENTS = 12
REQUEST_TIMEOUT_S = 120.0
LONGEST_STAY_S = 1.5  # of a client that leaves
# What may be answered while hosts and engines are being killed; anything else is a defect.
EXPECTED = frozenset({200, 400, 401, 429, 502, 503, 504, 529})

Step = Callable[[httpx.AsyncClient], Awaitable[str]]


class Traffic:
    """Runs in a thread with an event loop of its own. `outcomes` counts what came back, `defects` says what must not."""

    def __init__(self, url: str, key: str, seed: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self.defects: list[str] = []
        self.cut = threading.Event()  # the balancer is away: connections may break
        self._url = url
        self._key = key
        self._chance = random.Random(seed)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="traffic")
        self._going = threading.Event()
        self._stopped = threading.Event()
        self._under_way = 0
        self._steps: tuple[Step, ...] = (
            self._stream, self._stream, self._left_stream, self._left_whole, self._whole, self._messages,
            self._responses, self._completion, self._ollama, self._read, self._refused, self._listen,
        )  # fmt: skip

    def __enter__(self) -> Traffic:
        self._going.set()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._going.set()
        self._thread.join()

    def pause(self) -> None:
        """Begin nothing more; what is under way ends. `resting` says when it has."""
        self._going.clear()

    def go_on(self) -> None:
        self._going.set()

    @property
    def resting(self) -> bool:
        return self._under_way == 0

    async def _run(self) -> None:
        limits = httpx.Limits(max_connections=4 * CLIENTS, max_keepalive_connections=CLIENTS)
        async with httpx.AsyncClient(
            base_url=self._url, timeout=REQUEST_TIMEOUT_S, trust_env=False, limits=limits
        ) as client:
            await asyncio.gather(*(self._ask_forever(client) for _ in range(CLIENTS)))

    async def _ask_forever(self, client: httpx.AsyncClient) -> None:
        while not self._stopped.is_set():
            if not self._going.is_set():
                await asyncio.sleep(0.05)
                continue
            step = self._chance.choice(self._steps)
            self._under_way += 1
            try:
                outcome = await step(client)
            except (httpx.TransportError, OSError, WebSocketException, TimeoutError) as error:
                outcome = f"{step.__name__}: {type(error).__name__}"
                if not self.cut.is_set():
                    self.defects.append(f"{outcome}: {error}")
            except Exception as error:  # what a client cannot read
                outcome = f"{step.__name__}: {type(error).__name__}"
                self.defects.append(f"{outcome}: {error}")
            finally:
                self._under_way -= 1
            self.outcomes[outcome] += 1
            await asyncio.sleep(self._chance.uniform(0, 0.2))

    # --- what is asked ------------------------------------------------------------------------------

    def _body(self, **fields: object) -> dict[str, object]:
        words = " ".join(
            self._chance.choices(("red", "fish", "blue", "moon", "why"), k=self._chance.randint(1, 60))
        )
        model = CHAT if self._chance.random() < 0.8 else REAL
        return {
            "model": model,
            "messages": [{"role": "user", "content": words}],
            "max_tokens": self._chance.choice((1, 8, 40, 200)),
            **fields,
        }

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key}"}

    async def _stream(self, client: httpx.AsyncClient) -> str:
        last = ""
        async with client.stream(
            "POST", "/v1/chat/completions", json=self._body(stream=True), headers=self._headers
        ) as answer:
            if answer.status_code != 200:
                await answer.aread()
                return self._judged("stream", answer)
            async for line in answer.aiter_lines():
                if line.startswith("data:"):
                    last = line[5:].strip()
                    if last != "[DONE]":
                        told = json.loads(last)
                        assert "error" in told or told["object"] == "chat.completion.chunk", last
        if last == "[DONE]":
            return "stream: whole"
        assert "error" in json.loads(last), f"a stream ended with {last[:200]}"
        return "stream: error event"

    async def _left_stream(self, client: httpx.AsyncClient) -> str:
        return await self._left(client, stream=True)

    async def _left_whole(self, client: httpx.AsyncClient) -> str:
        return await self._left(client, stream=False)

    async def _left(self, client: httpx.AsyncClient, *, stream: bool) -> str:
        body = self._body(stream=stream, max_tokens=2000, ignore_eos=True)
        try:
            async with asyncio.timeout(self._chance.uniform(0, LONGEST_STAY_S)):
                await client.post("/v1/chat/completions", json=body, headers=self._headers)
        except TimeoutError:
            return "left"
        return "left: too late"

    async def _whole(self, client: httpx.AsyncClient) -> str:
        return await self._post(client, "/v1/chat/completions", self._body(), "choices")

    async def _completion(self, client: httpx.AsyncClient) -> str:
        body = {"model": CHAT, "prompt": "One, two", "max_tokens": 20}
        return await self._post(client, "/v1/completions", body, "choices")

    async def _messages(self, client: httpx.AsyncClient) -> str:
        return await self._post(client, "/v1/messages", self._body(), "content")

    async def _responses(self, client: httpx.AsyncClient) -> str:
        body = {"model": CHAT, "input": "Hello", "max_output_tokens": 30}
        return await self._post(client, "/v1/responses", body, "output")

    async def _ollama(self, client: httpx.AsyncClient) -> str:
        return await self._post(client, "/api/chat", {**self._body(), "stream": False}, "message")

    async def _post(self, client: httpx.AsyncClient, path: str, body: dict[str, object], field: str) -> str:
        answer = await client.post(path, json=body, headers=self._headers)
        if answer.status_code == 200:
            assert field in answer.json(), answer.text[:200]
        return self._judged(path, answer)

    async def _read(self, client: httpx.AsyncClient) -> str:
        path = self._chance.choice(("/v1/models", "/api/models", "/health", "/", "/api/openapi.json"))
        return self._judged(path, await client.get(path, headers=self._headers))

    async def _refused(self, client: httpx.AsyncClient) -> str:
        body, key = self._chance.choice(
            ((b"{", self._key), (b"{}", "sk-nobody"), (b'{"model": 7}', self._key))
        )
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        answer = await client.post("/v1/chat/completions", content=body, headers=headers)
        assert answer.status_code in (400, 401), answer.text
        return self._judged("refused", answer)

    async def _listen(self, _client: httpx.AsyncClient) -> str:
        url = f"ws{self._url.removeprefix('http')}/ws/models"
        async with websockets.asyncio.client.connect(
            url, additional_headers=self._headers, proxy=None
        ) as socket:
            json.loads(await asyncio.wait_for(socket.recv(), REQUEST_TIMEOUT_S))
            await asyncio.sleep(self._chance.uniform(0, LONGEST_STAY_S))
        return "listen"

    def _judged(self, what: str, answer: httpx.Response) -> str:
        code = ""
        if answer.status_code >= 400:
            error = answer.json().get("error")
            code = f" {error.get('code')}" if isinstance(error, dict) else ""
        outcome = f"{what}: {answer.status_code}{code}"
        if answer.status_code not in EXPECTED:
            self.defects.append(f"{outcome}: {answer.text[:200]}")
        return outcome
