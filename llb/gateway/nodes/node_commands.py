"""Commands to nodes: load a model, or free its memory."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from urllib.parse import quote

import msgspec

from llb import errors
from llb.base.tasks import TaskSupervisor
from llb.cluster.view import ClusterView, Node
from llb.gateway.http.client import JSON_HEADER
from llb.gateway.http.engine_errors import NODE_ERROR_HEADER, error_from_engine_response
from llb.gateway.http.response import UpstreamResponse
from llb.gateway.http.upstream_errors import ConnectError, TransportError
from llb.gateway.nodes.node_connections import NodeConnections
from llb.node.agent import LOAD_TIMEOUT_S, NodeAgent
from llb.wire import LoadOptions, ReplicaState

# Time for running requests, after which an engine unloads.
UNLOAD_TIMEOUT_S = 60.0
# The body of an error follows its head at once.
MAX_ERROR_BODY_BYTES, ERROR_BODY_TIMEOUT_S = 64 * 1024, 5.0
# Cooldowns before the same preload command is sent again: after a success, after a failure.
PRELOAD_COOLDOWN_S, FAILED_PRELOAD_COOLDOWN_S = 5.0, 60.0

log = logging.getLogger(__name__)


class NodeCommands:
    """Sender of load and unload commands to the nodes that hold a model, the local one included."""

    def __init__(self, view: ClusterView, agent: NodeAgent, node_connections: NodeConnections) -> None:
        self._view = view
        self._agent = agent
        self._node_connections = node_connections
        # by node and model; time.monotonic()
        self._next_preload_at: dict[tuple[str, str], float] = {}
        self._tasks = TaskSupervisor("node_commands")

    async def close(self) -> None:
        """Cancel the running preloads; idempotent."""
        await self._tasks.close()

    def preload(self, node_id: str, model_id: str) -> None:
        """Load a model on a node, in the background; repeated calls within the cooldown have no effect."""
        node = self._view.nodes.get(node_id)
        if node is not None and time.monotonic() >= self._next_preload_at.get((node_id, model_id), 0.0):
            self._next_preload_at[node_id, model_id] = math.inf
            self._tasks.spawn(self._preload(node, model_id), f"preload.{node.hello.name}.{model_id}")

    async def _preload(self, node: Node, model_id: str) -> None:
        log.info("loading %s on node %s: its queue does not empty", model_id, node.hello.name)
        cooldown_s = FAILED_PRELOAD_COOLDOWN_S
        try:
            await self._load(node, model_id)
            cooldown_s = PRELOAD_COOLDOWN_S
        except errors.LlbError as error:
            log.warning("node %s failed to load %s: %s", node.hello.name, model_id, error.message)
        finally:
            self._next_preload_at[node.id, model_id] = time.monotonic() + cooldown_s

    async def load(
        self, model_id: str, *, options: LoadOptions | None, node_ids: Sequence[str] | None
    ) -> None:
        """Load a model on the online nodes that hold it, or on those of `node_ids`, and wait for it.

        Raises `ModelNotRegistered` if no online node holds it, `NotFound` for a node that does not, and as
        `NodeAgent.load_model()` does.
        """
        holders = {
            node.id: node
            for node, report in self._view.replicas_of(model_id)
            if node.is_online and not node.draining and report.state is ReplicaState.READY
        }
        if not holders:
            raise errors.ModelNotRegistered(model_id)
        for node_id in node_ids or ():
            if node_id not in holders:
                raise errors.NotFound(
                    f"Model '{model_id}' is not on node '{self._view.node_name_of(node_id)}'"
                )
        chosen = [holders[node_id] for node_id in node_ids] if node_ids else list(holders.values())
        results = await asyncio.gather(
            *(self._load(node, model_id, options or LoadOptions()) for node in chosen), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _load(self, node: Node, model_id: str, options: LoadOptions | None = None) -> None:
        if node.id == self._agent.node_id:
            await self._agent.load_model(model_id, options)
        else:
            body = b"" if options is None else msgspec.json.encode(options)
            await self._send_command(node, model_id, "load", timeout_s=LOAD_TIMEOUT_S, body=body)

    async def unload(self, model_id: str) -> None:
        """Free the model's memory on every node, once its running requests have ended.

        Raises `ModelNotRegistered` if no online node holds it, `EngineFailed` if a node failed to unload it.
        """
        holders = [node for node, _ in self._view.replicas_of(model_id) if node.is_online]
        if not holders:
            raise errors.ModelNotRegistered(model_id)
        # Every node gets the command, even if another one fails.
        results = await asyncio.gather(
            *(self._unload(node, model_id) for node in holders), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _unload(self, node: Node, model_id: str) -> None:
        if node.id == self._agent.node_id:
            await self._agent.unload_model(model_id)
        else:
            await self._send_command(node, model_id, "unload", timeout_s=UNLOAD_TIMEOUT_S)

    async def discard_partial(self, model_id: str) -> None:
        """Remove what a cancelled download of the model left on the online nodes.

        Of a download that still runs it is removed once it is cancelled.

        Raises `EngineFailed` if a node failed to.
        """
        keepers = [
            node
            for node in self._view.online_nodes()
            if model_id in node.partials or model_id in node.replicas
        ]
        results = await asyncio.gather(
            *(self._discard(node, model_id) for node in keepers), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _discard(self, node: Node, model_id: str) -> None:
        if node.id == self._agent.node_id:
            await self._agent.discard_partial(model_id)
        else:
            await self._send_command(node, model_id, "discard", timeout_s=UNLOAD_TIMEOUT_S)
        self._view.forget_partial(node.id, model_id)

    async def _send_command(
        self, node: Node, model_id: str, command: str, *, timeout_s: float, body: bytes = b""
    ) -> None:
        path = f"/hop/models/{quote(model_id)}/{command}"
        headers = (JSON_HEADER,) if body else ()
        try:
            response = await self._node_connections.request(
                node.id, b"POST", path.encode("ascii"), headers, body, header_timeout_s=timeout_s
            )
            try:
                refusal = await _read_refusal(response)
            finally:
                response.close()
        except TransportError as error:
            problem = "cannot be reached" if isinstance(error, ConnectError) else "did not respond"
            raise errors.EngineFailed(f"Node '{node.hello.name}' {problem}") from None
        if response.status >= 400:
            raise refusal or errors.EngineFailed(f"Node '{node.hello.name}' failed to {command} the model")


async def _read_refusal(response: UpstreamResponse) -> errors.LlbError | None:
    """Return the error that the node itself raised; None without one, as from an older node."""
    if NODE_ERROR_HEADER not in dict(response.headers):
        return None
    body = await response.read(MAX_ERROR_BODY_BYTES, ERROR_BODY_TIMEOUT_S)
    return error_from_engine_response(response.status, response.headers, body)
