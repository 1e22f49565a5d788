"""Link client of the tests: a node of another version, which sends any JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import websockets.asyncio.client
from websockets.exceptions import ConnectionClosed

from llb.wire import JoinReply
from tests.harness import RunningBalancer

DEADLINE_S = 30.0
# Without the fields that protocol 1 did not have.
PROTOCOL_1_HELLO: dict[str, Any] = {
    "type": "hello",
    "protocol": 1,
    "name": "relic",
    "version": "0.0.9",
    "platform": "Linux",
    "addresses": [],
    "hardware": {"cpu": "old", "cpu_count": 1, "memory_total_bytes": 8_000_000_000},
    "memory_budget_bytes": 8_000_000_000,
    "vram_budget_bytes": 0,
    "max_downloads": 2,
    "slots_per_engine": 4,
    "replicas": [],
}
HEARTBEAT: dict[str, Any] = {
    "type": "heartbeat",
    "hardware": PROTOCOL_1_HELLO["hardware"],
    "meters": {},
    "memory_used_bytes": 0,
    "disk_free_bytes": 100_000_000_000,
}


async def join_node(llb: RunningBalancer, name: str) -> JoinReply:
    """Join with the request of a host, without a host."""
    body = {"token": await llb.create_join_token(), "name": name, "protocol": 1, "version": "0.0.9"}
    answer = await llb.http.post("/api/nodes/join", json=body)
    assert answer.status_code == 201, answer.text
    return JoinReply(**answer.json())


class LinkClient:
    """One link, driven by the test."""

    def __init__(self, socket: websockets.asyncio.client.ClientConnection) -> None:
        self._socket = socket

    async def send(self, message: dict[str, Any]) -> None:
        await self._socket.send(json.dumps(message))

    async def receive(self, message_type: str) -> dict[str, Any]:
        """The next message of this type; others are skipped."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                message = json.loads(await self._socket.recv())
                if message["type"] == message_type:
                    return dict(message)

    async def wait_closed(self) -> None:
        """Wait until the balancer has closed the link."""
        async with asyncio.timeout(DEADLINE_S):
            try:
                while True:
                    await self._socket.recv()
            except ConnectionClosed:
                return

    async def send_hello(self, node_id: str, **changes: Any) -> dict[str, Any]:
        """Send a hello and a heartbeat; returns the welcome."""
        await self.send({**PROTOCOL_1_HELLO, "node_id": node_id, **changes})
        await self.send(HEARTBEAT)
        return await self.receive("welcome")


@asynccontextmanager
async def open_link(llb: RunningBalancer, credential: str, **headers: str) -> AsyncIterator[LinkClient]:
    """Open a link with this credential."""
    async with websockets.asyncio.client.connect(
        f"ws://127.0.0.1:{llb.port}/ws/nodes",
        additional_headers={"Authorization": f"Bearer {credential}", **headers},
        proxy=None,
    ) as socket:
        yield LinkClient(socket)
