"""What the balancer does on nodes besides asking their engines: load a model, free its memory, or keep it there."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from urllib.parse import quote

from llb import errors
from llb.base.tasks import TaskSupervisor
from llb.cluster.view import ClusterView, Node
from llb.gateway.http.upstream_errors import ConnectError, TransportError
from llb.gateway.nodes.node_connections import NodeConnections
from llb.node.agent import LOAD_TIMEOUT_S, NodeAgent

UNLOAD_TIMEOUT_S = 60.0  # an engine unloads when its running requests have ended
# Before a node is told once more to load the same model: it did, and has given it up since; it could not.
PRELOAD_COOLDOWN_S, FAILED_PRELOAD_COOLDOWN_S = 5.0, 60.0

log = logging.getLogger(__name__)


class NodeCommands:
    """Acts on every online node that holds a model, this host's and others."""

    def __init__(self, view: ClusterView, agent: NodeAgent, node_connections: NodeConnections) -> None:
        self._view = view
        self._agent = agent
        self._node_connections = node_connections
        self._next_preload_at: dict[
            tuple[str, str], float
        ] = {}  # to load: by node and model, time.monotonic()
        self._tasks = TaskSupervisor("hands")

    async def close(self) -> None:
        """Idempotent."""
        await self._tasks.close()

    def preload(self, node_id: str, model_id: str) -> None:
        """Have a node load a model, in the background."""
        node = self._view.nodes.get(node_id)
        if node is not None and time.monotonic() >= self._next_preload_at.get((node_id, model_id), 0.0):
            self._next_preload_at[node_id, model_id] = math.inf
            self._tasks.spawn(self._preload(node, model_id), f"warm.{node.hello.name}.{model_id}")

    async def _preload(self, node: Node, model_id: str) -> None:
        log.info("node %s loads %s: requests wait all the time", node.hello.name, model_id)
        pause_s = FAILED_PRELOAD_COOLDOWN_S
        try:
            if node.id == self._agent.node_id:
                await self._agent.load_model(model_id)
            else:
                path = f"/hop/models/{quote(model_id)}/load"
                await self._send_command(node, path, timeout_s=LOAD_TIMEOUT_S)
            pause_s = PRELOAD_COOLDOWN_S
        except errors.LlbError as error:
            log.warning("node %s did not load %s: %s", node.hello.name, model_id, error.message)
        finally:
            self._next_preload_at[node.id, model_id] = time.monotonic() + pause_s

    async def unload(self, model_id: str) -> None:
        """Free the model's memory once its running requests have ended.

        Raises `ModelNotRegistered` where no node holds it, `EngineFailed` for a node that did not do it.
        """

        async def unload(node: Node) -> None:
            if node.id == self._agent.node_id:
                await self._agent.unload_model(model_id)
            else:
                await self._send_command(node, f"/hop/models/{quote(model_id)}/unload")

        holders = [node for node, _ in self._view.replicas_of(model_id) if node.is_online]
        if not holders:
            raise errors.ModelNotRegistered(model_id)
        # On all of them, also where one fails.
        ends = await asyncio.gather(*map(unload, holders), return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException):
                raise end

    async def _send_command(self, node: Node, path: str, *, timeout_s: float = UNLOAD_TIMEOUT_S) -> None:
        try:
            response = await self._node_connections.request(
                node.id,
                b"POST",
                path.encode("ascii"),
                header_timeout_s=timeout_s,
            )
            response.close()
        except TransportError as fault:
            away = isinstance(fault, ConnectError)
            raise errors.EngineFailed(
                f"Node '{node.hello.name}' {'cannot be reached' if away else 'did not answer'}"
            ) from None
        if response.status >= 400:
            raise errors.EngineFailed(f"Node '{node.hello.name}' did not do it")
