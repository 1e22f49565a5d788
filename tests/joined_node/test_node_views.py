"""Views of several nodes: the list, and the events of its changes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from websockets.asyncio.client import ClientConnection

from llb.hardware import HardwareInfo, HardwareProbe
from llb.wire import Hello
from llb.wire.link import placeholder_hello
from tests.conftest import TINY_BYTES, BalancerFactory, JoinedNodeFactory
from tests.harness import DEADLINE_S, RunningBalancer
from tests.hub import HubStandIn


async def list_names(llb: RunningBalancer) -> list[str]:
    return [node["name"] for node in (await llb.http.get("/api/nodes")).json()["nodes"]]


async def wait_for_event(
    reader: ClientConnection, condition: Callable[[dict[str, Any]], object]
) -> dict[str, Any]:
    """The next node event for which `condition` is true."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            event: dict[str, Any] = json.loads(await reader.recv())
            if event["type"] == "NodeStatusChanged" and condition(event):
                return event


async def test_nodes_are_listed_in_the_order_they_came_after_a_restart_too(
    make_llb: BalancerFactory, make_node: JoinedNodeFactory
) -> None:
    llb = await make_llb().start()
    await llb.wait_until_online()
    for name in ("cellar", "barn"):
        node = await make_node(llb, name).start()
        await node.wait_until_online()
        await node.stop()
    assert await list_names(llb) == ["attic", "cellar", "barn"]
    await llb.stop()
    await llb.start(llb.port)
    await llb.wait_until_online()
    assert await list_names(llb) == ["attic", "cellar", "barn"]


async def test_the_way_to_a_node_is_told_once_it_is_found(
    llb: RunningBalancer, make_node: JoinedNodeFactory
) -> None:
    async with llb.open_event_stream() as reader:
        own = await wait_for_event(reader, lambda event: event["name"] == "attic")
        assert own["reach"] == {"way": "local", "answer_ms": None}
        node = await make_node(llb, "cellar").start()
        found = await wait_for_event(reader, lambda event: event["reach"]["way"] == "direct")
        assert found["name"] == "cellar"
        assert found["reach"]["answer_ms"] > 0
        await node.stop()
        gone = await wait_for_event(reader, lambda event: event["reach"]["way"] == "none")
        assert (gone["status"], gone["reach"]["answer_ms"]) == ("offline", None)


async def test_tags_are_told_to_those_who_listen(llb: RunningBalancer, make_node: JoinedNodeFactory) -> None:
    node = await make_node(llb, "cellar").start()
    await node.wait_until_online()
    async with llb.open_event_stream() as reader:
        patch = {"tags": ["gpu", "upstairs"]}
        assert (await llb.http.patch(f"/api/nodes/{node.id}", json=patch)).status_code == 200
        event = await wait_for_event(reader, lambda event: event["tags"])
        assert (event["node_id"], event["tags"]) == (node.id, ["gpu", "upstairs"])


async def test_each_node_tells_how_far_it_has_come(
    llb: RunningBalancer, hub: HubStandIn, make_node: JoinedNodeFactory
) -> None:
    node = await make_node(llb, "cellar").start()
    await node.wait_until_online()
    stalled = hub.faults.stall(after=TINY_BYTES // 2)
    async with llb.open_event_stream() as reader:
        await llb.register_model("tiny")
        for name in ("attic", "cellar"):

            def halfway(event: dict[str, Any], name: str = name) -> bool:
                told = event["models"][0]["download"] if event["models"] else None
                return event["name"] == name and told is not None and told["downloaded_bytes"] > 0

            event = await wait_for_event(reader, halfway)
            [model] = event["models"]
            assert model["lifecycle_status"] == "downloading"
            assert 0 < model["download"]["downloaded_bytes"] <= TINY_BYTES // 2
            assert model["download"]["total_bytes"] == TINY_BYTES
        stalled.clear()
        done = await wait_for_event(reader, lambda event: event["models"][0]["lifecycle_status"] == "ready")
        assert done["models"][0]["download"] is None


async def test_the_problems_of_a_joined_host_reach_its_balancer(
    llb: RunningBalancer, make_node: JoinedNodeFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are those of its hardware; a node of an earlier version sends none."""
    probe = HardwareProbe.probe

    async def probe_with_problem(self: HardwareProbe) -> HardwareInfo:
        return replace(await probe(self), problems=("A GPU is present (RX 7900): run 'llb engine install'.",))

    await llb.wait_until_online()
    monkeypatch.setattr(HardwareProbe, "probe", probe_with_problem)
    node = await make_node(llb, "cellar").start()
    await node.wait_until_online()
    own, joined = (await llb.http.get("/api/nodes")).json()["nodes"]
    assert own["problems"] == []
    assert joined["problems"] == ["A GPU is present (RX 7900): run 'llb engine install'."]
    for view in (own, joined):
        assert view["hardware"]["engine"]["build"] == "cpu"
        assert view["hardware"]["engine"]["reason"] is None
    old = msgspec.json.decode(msgspec.json.encode(placeholder_hello("n")), type=dict[str, Any])
    del old["problems"], old["hardware"]["engine"]
    decoded = msgspec.convert(old, Hello)
    assert (decoded.problems, decoded.hardware.engine) == ((), None)
