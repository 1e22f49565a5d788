"""Requests of many clients in every dialect, some of which leave in the middle, and their outcomes."""

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

from tests.soak.cluster_fixture import CHAT_MODEL, REAL_MODEL

CLIENT_COUNT = 12
REQUEST_TIMEOUT_S = 240.0  # 12 clients share two cores with engines, faults and attacks
MAX_STAY_S = 1.5  # of a client that leaves
# What may be answered while hosts and engines are being killed; anything else is a defect.
EXPECTED_STATUSES = frozenset({200, 400, 401, 429, 502, 503, 504, 529})

ClientAction = Callable[[httpx.AsyncClient], Awaitable[str]]


class Traffic:
    """Runs in a thread with an event loop of its own.

    `outcomes` counts what came back, `defects` says what must not.
    """

    def __init__(self, url: str, key: str, seed: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self.defects: list[str] = []
        self.expect_disconnects = threading.Event()  # the balancer is away: connections may break
        self._url = url
        self._key = key
        self._random = random.Random(seed)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="traffic")
        self._resumed = threading.Event()
        self._stopped = threading.Event()
        self._in_flight = 0
        self._actions: tuple[ClientAction, ...] = (
            self._chat_stream, self._chat_stream, self._abandon_stream, self._abandon_document, self._chat_document, self._messages,
            self._responses, self._completion, self._ollama, self._get_read_only, self._send_invalid_request, self._follow_events,
        )  # fmt: skip

    def __enter__(self) -> Traffic:
        self._resumed.set()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._resumed.set()
        self._thread.join()

    def pause(self) -> None:
        """Begin nothing more; what is under way ends. `resting` says when it has."""
        self._resumed.clear()

    def resume(self) -> None:
        self._resumed.set()

    @property
    def is_idle(self) -> bool:
        return self._in_flight == 0

    async def _run(self) -> None:
        limits = httpx.Limits(max_connections=4 * CLIENT_COUNT, max_keepalive_connections=CLIENT_COUNT)
        async with httpx.AsyncClient(
            base_url=self._url, timeout=REQUEST_TIMEOUT_S, trust_env=False, limits=limits
        ) as client:
            await asyncio.gather(*(self._run_client(client) for _ in range(CLIENT_COUNT)))

    async def _run_client(self, client: httpx.AsyncClient) -> None:
        while not self._stopped.is_set():
            if not self._resumed.is_set():
                await asyncio.sleep(0.05)
                continue
            step = self._random.choice(self._actions)
            self._in_flight += 1
            try:
                outcome = await step(client)
            except (httpx.TransportError, OSError, WebSocketException, TimeoutError) as error:
                outcome = f"{step.__name__}: {type(error).__name__}"
                if not self.expect_disconnects.is_set():
                    self.defects.append(f"{outcome}: {error}")
            except Exception as error:  # what a client cannot read
                outcome = f"{step.__name__}: {type(error).__name__}"
                self.defects.append(f"{outcome}: {error}")
            finally:
                self._in_flight -= 1
            self.outcomes[outcome] += 1
            await asyncio.sleep(self._random.uniform(0, 0.2))

    # --- what is asked ------------------------------------------------------------------------------

    def _body(self, **fields: object) -> dict[str, object]:
        words = " ".join(
            self._random.choices(("red", "fish", "blue", "moon", "why"), k=self._random.randint(1, 60))
        )
        model = CHAT_MODEL if self._random.random() < 0.8 else REAL_MODEL
        return {
            "model": model,
            "messages": [{"role": "user", "content": words}],
            "max_tokens": self._random.choice((1, 8, 40, 200)),
            **fields,
        }

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key}"}

    async def _chat_stream(self, client: httpx.AsyncClient) -> str:
        last = ""
        async with client.stream(
            "POST", "/v1/chat/completions", json=self._body(stream=True), headers=self._headers
        ) as answer:
            if answer.status_code != 200:
                await answer.aread()
                return self._classify("stream", answer)
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

    async def _abandon_stream(self, client: httpx.AsyncClient) -> str:
        return await self._abandon(client, stream=True)

    async def _abandon_document(self, client: httpx.AsyncClient) -> str:
        return await self._abandon(client, stream=False)

    async def _abandon(self, client: httpx.AsyncClient, *, stream: bool) -> str:
        body = self._body(stream=stream, max_tokens=2000, ignore_eos=True)
        try:
            async with asyncio.timeout(self._random.uniform(0, MAX_STAY_S)):
                await client.post("/v1/chat/completions", json=body, headers=self._headers)
        except TimeoutError:
            return "left"
        return "left: too late"

    async def _chat_document(self, client: httpx.AsyncClient) -> str:
        return await self._post(client, "/v1/chat/completions", self._body(), "choices")

    async def _completion(self, client: httpx.AsyncClient) -> str:
        body = {"model": CHAT_MODEL, "prompt": "One, two", "max_tokens": 20}
        return await self._post(client, "/v1/completions", body, "choices")

    async def _messages(self, client: httpx.AsyncClient) -> str:
        return await self._post(client, "/v1/messages", self._body(), "content")

    async def _responses(self, client: httpx.AsyncClient) -> str:
        body = {"model": CHAT_MODEL, "input": "Hello", "max_output_tokens": 30}
        return await self._post(client, "/v1/responses", body, "output")

    async def _ollama(self, client: httpx.AsyncClient) -> str:
        body = self._body(stream=False)
        body["options"] = {"num_predict": body.pop("max_tokens")}
        return await self._post(client, "/api/chat", body, "message")

    async def _post(self, client: httpx.AsyncClient, path: str, body: dict[str, object], field: str) -> str:
        answer = await client.post(path, json=body, headers=self._headers)
        if answer.status_code == 200:
            assert field in answer.json(), answer.text[:200]
        return self._classify(path, answer)

    async def _get_read_only(self, client: httpx.AsyncClient) -> str:
        path = self._random.choice(("/v1/models", "/api/models", "/health", "/", "/api/openapi.json"))
        return self._classify(path, await client.get(path, headers=self._headers))

    async def _send_invalid_request(self, client: httpx.AsyncClient) -> str:
        body, key = self._random.choice(
            ((b"{", self._key), (b"{}", "sk-nobody"), (b'{"model": 7}', self._key))
        )
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        answer = await client.post("/v1/chat/completions", content=body, headers=headers)
        assert answer.status_code in (400, 401), answer.text
        return self._classify("refused", answer)

    async def _follow_events(self, _client: httpx.AsyncClient) -> str:
        url = f"ws{self._url.removeprefix('http')}/ws/models"
        async with websockets.asyncio.client.connect(
            url, additional_headers=self._headers, proxy=None
        ) as socket:
            json.loads(await asyncio.wait_for(socket.recv(), REQUEST_TIMEOUT_S))
            await asyncio.sleep(self._random.uniform(0, MAX_STAY_S))
        return "listen"

    def _classify(self, what: str, response: httpx.Response) -> str:
        code = ""
        if response.status_code >= 400:
            error = response.json().get("error")
            code = f" {error.get('code')}" if isinstance(error, dict) else ""
        outcome = f"{what}: {response.status_code}{code}"
        if response.status_code not in EXPECTED_STATUSES:
            self.defects.append(f"{outcome}: {response.text[:200]}")
        return outcome
