"""Unreachable nodes: the balancer sends requests over tunnels that the node opens."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from llb.wire import EngineState, NodeStatus
from tests.conftest import ENDLESS_CONTEXT, BalancerFactory, JoinedNodeFactory
from tests.harness import RunningBalancer, RunningJoinedNode, wait_until, write_catalog
from tests.hub import HubStandIn

# Nothing listens on the port "discard".
UNREACHABLE_URL = "http://127.0.0.1:9"
BODY: dict[str, Any] = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}


@pytest.fixture
def settings(hub: HubStandIn, endless_gguf: Path, tmp_path: Path) -> dict[str, Any]:
    hub.add_repo("test/chat", {"chat.gguf": endless_gguf})
    size_bytes = endless_gguf.stat().st_size
    return {"catalog": write_catalog(tmp_path / "chat.json", {"id": "chat", "size_bytes": size_bytes})}


@pytest.fixture
async def balancer(make_llb: BalancerFactory, settings: dict[str, Any]) -> RunningBalancer:
    return await make_llb(**settings).start()


@pytest.fixture
async def node(balancer: RunningBalancer, make_node: JoinedNodeFactory) -> RunningJoinedNode:
    """A node with a working model; the local node is drained."""
    node = await make_node(balancer, "cellar", advertise=UNREACHABLE_URL, context=ENDLESS_CONTEXT).start()
    await node.wait_until_online()
    await balancer.pull_model("chat")
    await wait_until(lambda: balancer.app.cluster.view.status_of("chat").available_nodes == 2)
    own = balancer.app.agent.node_id
    (await balancer.http.patch(f"/api/nodes/{own}", json={"draining": True})).raise_for_status()
    return node


async def get_reach(balancer: RunningBalancer, node: RunningJoinedNode) -> str:
    return str((await balancer.http.get(f"/api/nodes/{node.id}")).json()["reach"]["way"])


async def test_it_is_asked_and_answers(balancer: RunningBalancer, node: RunningJoinedNode) -> None:
    shown = (await balancer.http.get(f"/api/nodes/{node.id}")).json()
    assert shown["reach"]["way"] == "reverse"
    assert shown["reach"]["answer_ms"] > 0
    assert shown["address"] is None
    own = (await balancer.http.get(f"/api/nodes/{balancer.app.agent.node_id}")).json()
    assert own["reach"] == {"way": "local", "answer_ms": None}
    answer = await balancer.http.post("/v1/chat/completions", json=BODY)
    assert (answer.status_code, answer.headers["x-llb-node"]) == (200, "cellar")
    assert answer.json()["usage"]["completion_tokens"] > 0
    many = await asyncio.gather(
        *(balancer.http.post("/v1/chat/completions", json=BODY | {"stream": True}) for _ in range(12))
    )
    for answer in many:
        assert (answer.status_code, answer.headers["x-llb-node"]) == (200, "cellar")
        assert answer.text.endswith("data: [DONE]\n\n")
    (await balancer.http.post("/api/models/chat/unload")).raise_for_status()
    await wait_until(lambda: not balancer.app.cluster.view.nodes[node.id].engines)


async def test_it_loads_a_model_without_a_request(balancer: RunningBalancer, node: RunningJoinedNode) -> None:
    nodes = balancer.app.cluster.view.nodes
    for node_id in nodes:
        balancer.app.gateway.node_commands.preload(node_id, "chat")

    def loaded() -> bool:
        return all(
            "chat" in there.engines and there.engines["chat"].state is EngineState.READY
            for there in nodes.values()
        )

    assert not loaded()
    await wait_until(loaded)


async def test_a_client_that_leaves_frees_its_slot(
    balancer: RunningBalancer, node: RunningJoinedNode
) -> None:
    endless = BODY | {"stream": True, "max_tokens": 100_000, "ignore_eos": True}
    async with balancer.http.stream("POST", "/v1/chat/completions", json=endless) as answer:
        await anext(answer.aiter_lines())
        pool = node.app.agent.engine_pool
        assert [report.busy for report in pool.engine_reports()] == [1]
    await wait_until(lambda: [report.busy for report in pool.engine_reports()] == [0], deadline_s=5.0)


async def test_it_is_found_again_when_either_was_away(
    balancer: RunningBalancer, node: RunningJoinedNode, make_llb: BalancerFactory, settings: dict[str, Any]
) -> None:
    port = node.port
    await node.stop()
    await node.wait_for_status(NodeStatus.OFFLINE)
    assert await get_reach(balancer, node) == "none"
    await node.start(port)
    await node.wait_until_online()
    assert await get_reach(balancer, node) == "reverse"
    port = balancer.port
    await balancer.stop()
    node.balancer = balancer = await make_llb(**settings).start(port)
    await node.wait_until_online()
    assert await get_reach(balancer, node) == "reverse"
    await wait_until(lambda: balancer.app.cluster.view.status_of("chat").available_nodes == 2)
    answer = await balancer.http.post("/v1/chat/completions", json=BODY)
    assert answer.headers["x-llb-node"] == "cellar"


async def test_a_node_that_stops_lets_its_answers_end(
    balancer: RunningBalancer, node: RunningJoinedNode
) -> None:
    async with balancer.http.stream(
        "POST", "/v1/chat/completions", json=BODY | {"stream": True, "max_tokens": 64, "ignore_eos": True}
    ) as answer:
        lines = answer.aiter_lines()
        await anext(lines)
        stopping = asyncio.ensure_future(node.stop(drain_timeout_s=20.0))
        rest = [json.loads(line.removeprefix("data: ")) async for line in lines if line.startswith("data: {")]
    await stopping
    assert not [event for event in rest if "error" in event]
    assert len(rest) >= 60


async def test_only_a_node_may_dial_and_only_when_its_link_stands(
    balancer: RunningBalancer, node: RunningJoinedNode
) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "llb-hop"}
    assert (await balancer.http.get("/hop/dial", headers=upgrade)).status_code == 401
    assert node.app.membership is not None
    credential = node.app.membership.credential
    await node.stop()
    await node.wait_for_status(NodeStatus.OFFLINE)
    signed = upgrade | {"Authorization": f"Bearer {credential}"}
    assert (await balancer.http.get("/hop/dial", headers=signed)).status_code == 409
