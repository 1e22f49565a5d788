"""Commands to joined nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from llb import errors
from llb.cluster.view import Node
from llb.gateway.http.client import HttpClient
from llb.gateway.nodes.node_commands import NodeCommands
from llb.gateway.nodes.node_connections import NodeConnections
from llb.wire import LoadOptions, ReplicaReport, ReplicaState
from tests.gateway.fake_node import CREDENTIAL, FakeNode, run_fake_node


class OneNodeView:
    """The part of the cluster view that commands need: one joined node, which holds every model."""

    def __init__(self, node: Node) -> None:
        self.nodes = {node.id: node}

    def replicas_of(self, model_id: str) -> list[tuple[Node, ReplicaReport]]:
        report = ReplicaReport(model_id=model_id, attempt=1, state=ReplicaState.READY)
        return [(node, report) for node in self.nodes.values()]


@pytest.fixture
async def fake_node() -> AsyncIterator[FakeNode]:
    async with run_fake_node() as node:
        yield node


@pytest.fixture
async def commands(fake_node: FakeNode, http_client: HttpClient) -> AsyncIterator[NodeCommands]:
    connections = NodeConnections(http_client, lambda _node_id: CREDENTIAL)
    found = asyncio.Event()
    connections.route_changed.subscribe(
        lambda node_id: found.set() if connections.route_of(node_id) is not None else None
    )
    hello = fake_node.build_hello()
    connections.connect_node(hello, None)
    await asyncio.wait_for(found.wait(), 10)
    view = cast(Any, OneNodeView(Node(id=fake_node.id, hello=hello)))
    commands = NodeCommands(view, cast(Any, SimpleNamespace(node_id="this-host")), connections)
    yield commands
    await commands.close()
    await connections.close()


async def test_load_options_reach_a_joined_node(fake_node: FakeNode, commands: NodeCommands) -> None:
    options = LoadOptions(context_length=256, slots=1, keep_alive=-1.0)
    loading = asyncio.ensure_future(commands.load("tiny", options=options, node_ids=None))
    request = await fake_node.next_request()
    assert request.path == "/hop/models/tiny/load"
    # Without the media type the node would refuse the body.
    assert request.headers["content-type"] == "application/json"
    assert msgspec.json.decode(request.body, type=LoadOptions) == options
    await request.respond(b"", b"Connection: close")
    await loading

    unloading = asyncio.ensure_future(commands.unload("tiny"))
    request = await fake_node.next_request()
    assert (request.path.rpartition("/")[2], request.body) == ("unload", b"")
    await request.respond(b"{}", status=500)
    with pytest.raises(errors.EngineFailed, match="Node 'cellar' failed to unload the model"):
        await unloading


async def test_a_node_s_refusal_keeps_its_code(fake_node: FakeNode, commands: NodeCommands) -> None:
    loading = asyncio.ensure_future(commands.load("tiny", options=LoadOptions(slots=9), node_ids=None))
    request = await fake_node.next_request()
    body = {"error": {"message": "There is no room for 9 slots", "type": "insufficient_resources"}}
    await request.respond(msgspec.json.encode(body), b"X-LLB-Error: insufficient_memory", status=400)
    with pytest.raises(errors.InsufficientMemory, match="There is no room for 9 slots"):
        await loading
