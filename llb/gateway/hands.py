"""What the balancer does on nodes besides asking their engines: free a model's memory, or keep it there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from urllib.parse import quote

import msgspec

from llb import errors
from llb.cluster.view import ClusterView, Node
from llb.gateway.faults import ConnectFailed, UpstreamFault
from llb.gateway.reach import Reach
from llb.node.agent import NodeAgent
from llb.wire import ModelPatch

ANSWER_TIMEOUT_S = 60.0  # an engine unloads when its running requests have ended


class Hands:
    """Acts on every online node that holds a model, this host's and others."""

    def __init__(self, view: ClusterView, agent: NodeAgent, reach: Reach) -> None:
        self._view = view
        self._agent = agent
        self._reach = reach

    async def unload(self, model_id: str) -> None:
        """Free the model's memory once its running requests have ended.

        Raises `ModelNotRegistered` where no node holds it, `EngineFailed` for a node that did not do it.
        """

        async def unload(node: Node) -> None:
            if node.id == self._agent.node_id:
                await self._agent.unload(model_id)
            else:
                await self._ask(node, b"POST", f"/hop/models/{quote(model_id)}/unload")

        await self._on_holders(model_id, unload)

    async def set_pinned(self, model_id: str, pinned: bool) -> None:
        """Keep the model's engines in memory, or no longer. Raises as `unload` does."""
        wish = msgspec.json.encode(ModelPatch(pinned=pinned))

        async def pin(node: Node) -> None:
            if node.id == self._agent.node_id:
                await self._agent.set_pinned(model_id, pinned)
            else:
                await self._ask(node, b"PATCH", f"/hop/models/{quote(model_id)}", wish)

        await self._on_holders(model_id, pin)

    async def _on_holders(self, model_id: str, work: Callable[[Node], Awaitable[None]]) -> None:
        """Do `work` on all of them, also where one fails; what went wrong first is raised when all have ended."""
        holders = [node for node, _ in self._view.holders(model_id) if node.online]
        if not holders:
            raise errors.ModelNotRegistered(model_id)
        ends = await asyncio.gather(*(work(node) for node in holders), return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException):
                raise end

    async def _ask(self, node: Node, method: bytes, path: str, body: bytes = b"") -> None:
        try:
            response = await self._reach.request(
                node.id,
                method,
                path.encode("ascii"),
                ((b"content-type", b"application/json"),) if body else (),
                body,
                header_timeout_s=ANSWER_TIMEOUT_S,
            )
            response.close()
        except UpstreamFault as fault:
            away = isinstance(fault, ConnectFailed)
            raise errors.EngineFailed(
                f"Node '{node.hello.name}' {'cannot be reached' if away else 'did not answer'}"
            ) from None
        if response.status >= 400:
            raise errors.EngineFailed(f"Node '{node.hello.name}' did not do it")
