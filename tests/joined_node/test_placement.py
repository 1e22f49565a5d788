"""Placement of models on joined nodes, deletion, and remote commands."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from llb.cluster.view import FAILOVER_GRACE_S
from llb.wire import EngineState, NodeStatus, ReplicaState
from tests.conftest import TINY_BYTES, BalancerFactory, JoinedNodeFactory
from tests.harness import RunningBalancer, RunningJoinedNode, wait_until, write_catalog
from tests.hub import HubStandIn, tiny_gguf
from tests.joined_node.wire import HEARTBEAT, PROTOCOL_1_HELLO, join_node, open_link

GB = 1_000_000_000


def get_holder_names(llb: RunningBalancer, model_id: str) -> set[str]:
    """Names of the online nodes that hold a model and are assigned to it."""
    assigned = llb.app.cluster.view.assigned_nodes_of(model_id)
    return {
        node.hello.name
        for node, report in llb.app.cluster.view.replicas_of(model_id)
        if node.is_online and report.state is ReplicaState.READY and node.id in assigned
    }


async def wait_until_held(llb: RunningBalancer, model_id: str, *names: str) -> None:
    await wait_until(lambda: get_holder_names(llb, model_id) == set(names))
    assert llb.app.cluster.view.status_of(model_id).available_nodes == len(names)


async def start_and_connect(*nodes: RunningJoinedNode) -> None:
    for node in nodes:
        await node.start()
        await node.wait_until_online()


# --- placement ------------------------------------------------------------------------------------


async def test_every_node_that_a_model_fits_on_holds_it_whenever_it_joins(
    make_llb: BalancerFactory, make_node: JoinedNodeFactory
) -> None:
    llb = await make_llb(memory_limit_bytes=4 * GB).start()
    await start_and_connect(
        make_node(llb, "garage", memory_limit_bytes=5 * GB),
        make_node(llb, "shoebox", memory_limit_bytes=1_000_000),
    )
    await llb.pull_model("tiny")
    await wait_until_held(llb, "tiny", "attic", "garage")
    await start_and_connect(make_node(llb, "late", memory_limit_bytes=4 * GB))
    await wait_until_held(llb, "tiny", "attic", "garage", "late")
    shoebox = next(node for node in llb.app.cluster.view.nodes.values() if node.hello.name == "shoebox")
    assert shoebox.replicas == {}


async def test_n_replicas_go_to_the_roomiest_and_the_next_takes_over_from_one_that_is_removed(
    make_llb: BalancerFactory, make_node: JoinedNodeFactory
) -> None:
    llb = await make_llb(memory_limit_bytes=2 * GB).start()
    garage = make_node(llb, "garage", memory_limit_bytes=4 * GB)
    await start_and_connect(garage, make_node(llb, "cellar", memory_limit_bytes=3 * GB))
    answer = await llb.http.post("/api/models/register", json={"model_id": "tiny", "replicas": 1})
    assert answer.status_code == 202
    await wait_until_held(llb, "tiny", "garage")
    await llb.http.delete(f"/api/nodes/{garage.id}")
    await wait_until_held(llb, "tiny", "cellar")
    # A node with still more capacity does not cause a move of gigabytes.
    await start_and_connect(make_node(llb, "late", memory_limit_bytes=5 * GB))
    assert llb.app.cluster.view.assigned_nodes_of("tiny") == {
        node.id for node in llb.app.cluster.view.nodes.values() if node.hello.name == "cellar"
    }


@pytest.mark.parametrize("replicas", [0, -1, 1.5, "many", None])
async def test_a_number_of_replicas_that_is_none(llb: RunningBalancer, replicas: object) -> None:
    answer = await llb.http.post("/api/models/register", json={"model_id": "tiny", "replicas": replicas})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "replicas"


async def test_the_memory_check_speaks_of_the_roomiest_online_node(
    make_llb: BalancerFactory, make_node: JoinedNodeFactory, tmp_path: Path
) -> None:
    catalog = write_catalog(
        tmp_path / "big.json",
        {"id": "tiny", "size_bytes": TINY_BYTES, "required_memory_bytes": 2 * GB},
    )
    llb = await make_llb(catalog=catalog, memory_limit_bytes=GB // 2).start()
    await llb.wait_until_online()

    async def refused() -> str:
        return str((await llb.register_model("tiny")).json()["error"]["message"])

    assert await refused() == "Insufficient VRAM. Required: 2GB, Available: 0.5GB"
    small, large = (
        make_node(llb, "garage", memory_limit_bytes=GB),
        make_node(llb, "cellar", memory_limit_bytes=3 * GB),
    )
    await start_and_connect(small)
    assert await refused() == "Insufficient VRAM. Required: 2GB, Available: 1GB"
    await start_and_connect(large)
    fit = (await llb.get_model("tiny"))["fit"]
    assert (fit["verdict"], fit["node_name"], fit["available_bytes"]) == ("fits", "cellar", 3 * GB)
    await large.stop()
    await large.wait_for_status(NodeStatus.OFFLINE)
    assert await refused() == "Insufficient VRAM. Required: 2GB, Available: 1GB"


# --- offline holders ------------------------------------------------------------------------------


async def test_a_holder_that_is_away_for_a_short_time_keeps_its_claim(
    make_llb: BalancerFactory, make_node: JoinedNodeFactory, hub: HubStandIn
) -> None:
    llb = await make_llb(memory_limit_bytes=2 * GB).start()
    now = 0.0
    llb.app.cluster.view._clock = lambda: now
    garage = make_node(llb, "garage", memory_limit_bytes=4 * GB)
    await start_and_connect(garage)
    await llb.http.post("/api/models/register", json={"model_id": "tiny", "replicas": 1})
    await wait_until_held(llb, "tiny", "garage")
    hub.clear_requests()
    await garage.stop()
    await garage.wait_for_status(NodeStatus.OFFLINE)
    now = FAILOVER_GRACE_S - 1
    llb.app.cluster.link_server.push_desired_state()
    shown = await llb.get_model("tiny")
    assert (shown["status"], shown["error"]) == ("Registered", "waiting for node garage to return")
    assert llb.app.cluster.view.assigned_nodes_of("tiny") == {garage.id}
    await garage.start()
    await garage.wait_until_online()
    await wait_until_held(llb, "tiny", "garage")
    assert hub.byte_requests() == []
    # After that another node takes over, and the files of the first one are unused.
    await garage.stop()
    await garage.wait_for_status(NodeStatus.OFFLINE)
    now += FAILOVER_GRACE_S
    llb.app.cluster.link_server.push_desired_state()
    await wait_until_held(llb, "tiny", "attic")
    await garage.start()
    await garage.wait_until_online()
    # Both hold it; the node with more capacity serves it.
    await wait_until_held(llb, "tiny", "garage")
    assert (llb.home / "models" / "tiny" / "tiny.gguf").is_file()


async def test_a_balancer_that_restarts_waits_for_the_holder(
    make_llb: BalancerFactory, make_node: JoinedNodeFactory, hub: HubStandIn
) -> None:
    llb = await make_llb(memory_limit_bytes=2 * GB).start()
    garage = make_node(llb, "garage", memory_limit_bytes=4 * GB)
    await start_and_connect(garage)
    await llb.http.post("/api/models/register", json={"model_id": "tiny", "replicas": 1})
    await wait_until_held(llb, "tiny", "garage")
    await garage.stop()
    await llb.stop()
    hub.clear_requests()
    llb = await make_llb(memory_limit_bytes=2 * GB).start()
    await llb.wait_until_online()
    assert llb.app.cluster.view.assigned_nodes_of("tiny") == {garage.id}
    assert hub.byte_requests() == []


# --- deletion -------------------------------------------------------------------------------------


async def test_a_deletion_waits_for_nodes_that_were_told_to_hold_the_model(llb: RunningBalancer) -> None:
    joined = await join_node(llb, "relic")
    async with open_link(llb, joined.credential) as relic:
        await relic.send_hello(joined.node_id)
        await llb.pull_model("tiny")
        while not (await relic.receive("want"))["models"]:
            pass
        # It has started but not reported it when the model is deleted.
        await llb.http.delete("/api/models/tiny")
        while "tiny" not in (await relic.receive("want"))["deleted"]:
            pass
    assert not llb.app.cluster.view.registrations["tiny"].is_active
    # After reconnecting it reports its replicas, gets the deletion again, and obeys.
    held = {"model_id": "tiny", "attempt": 1, "state": "downloading"}
    async with open_link(llb, joined.credential) as relic:
        await relic.send_hello(joined.node_id, replicas=[held])
        assert (await relic.receive("want"))["deleted"] == ["tiny"]
        assert "tiny" in llb.app.cluster.view.registrations
        await relic.send({"type": "replica", **held, "state": "gone"})
        await wait_until(lambda: "tiny" not in llb.app.cluster.view.registrations)


async def test_a_deletion_does_not_wait_for_a_node_that_never_got_the_word(llb: RunningBalancer) -> None:
    joined = await join_node(llb, "relic")
    async with open_link(llb, joined.credential) as relic:
        await relic.send_hello(joined.node_id)
        await llb.pull_model("tiny")
    await llb.http.delete("/api/models/tiny")
    await llb.wait_until(lambda: "tiny" not in llb.app.cluster.view.nodes[llb.app.agent.node_id].replicas)
    assert "tiny" in llb.app.cluster.view.registrations
    async with open_link(llb, joined.credential) as relic:
        await relic.send_hello(joined.node_id)
        await wait_until(lambda: "tiny" not in llb.app.cluster.view.registrations)


async def test_a_deletion_does_not_wait_for_a_node_that_was_removed(llb: RunningBalancer) -> None:
    joined = await join_node(llb, "relic")
    async with open_link(llb, joined.credential) as relic:
        await relic.send({**PROTOCOL_1_HELLO, "node_id": joined.node_id})
        await relic.send(HEARTBEAT)
        await llb.pull_model("tiny")
        while not (await relic.receive("want"))["models"]:
            pass
        await llb.http.delete("/api/models/tiny")
        while "tiny" not in (await relic.receive("want"))["deleted"]:
            pass
        await llb.http.delete(f"/api/nodes/{joined.node_id}")
        await wait_until(lambda: "tiny" not in llb.app.cluster.view.registrations)


async def test_files_that_a_host_had_before_it_joined_are_used_and_never_deleted(
    llb: RunningBalancer, make_node: JoinedNodeFactory, hub: HubStandIn
) -> None:
    node = make_node(llb, "garage")
    folder = node.home / "models" / "tiny"
    folder.mkdir(parents=True)
    own = folder / "tiny.gguf"
    own.write_bytes(tiny_gguf(TINY_BYTES))
    before = own.stat()
    (node.home / "models" / "foreign").mkdir()
    (node.home / "models" / "foreign" / "notes.gguf").write_text("mine")
    await llb.pull_model("tiny")
    hub.clear_requests()
    await start_and_connect(node)
    await wait_until_held(llb, "tiny", "attic", "garage")
    assert hub.byte_requests() == []
    await llb.pull_model("other")
    await wait_until_held(llb, "other", "attic", "garage")
    # Also after a kill and a restart in between.
    await node.stop()
    await node.start()
    await node.wait_until_online()
    for model_id in ("tiny", "other"):
        await llb.http.delete(f"/api/models/{model_id}")
    await wait_until(lambda: not {"tiny", "other"} & set(llb.app.cluster.view.registrations))
    assert (own.stat().st_ino, own.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert not (node.home / "models" / "other").exists()
    assert (node.home / "models" / "foreign" / "notes.gguf").read_text() == "mine"
    assert not (llb.home / "models" / "tiny").exists()


async def test_a_file_of_the_same_size_that_is_not_the_one_is_fetched(
    llb: RunningBalancer, make_node: JoinedNodeFactory
) -> None:
    node = make_node(llb, "garage")
    folder = node.home / "models" / "tiny"
    folder.mkdir(parents=True)
    (folder / "tiny.gguf").write_bytes(bytes(TINY_BYTES))
    await llb.pull_model("tiny")
    await start_and_connect(node)
    await wait_until_held(llb, "tiny", "attic", "garage")
    digest = hashlib.sha256((folder / "tiny.gguf").read_bytes()).digest()
    assert digest == hashlib.sha256(tiny_gguf(TINY_BYTES)).digest()


# --- remote commands ------------------------------------------------------------------------------


async def test_a_node_that_was_away_hears_what_is_pinned(
    make_llb: BalancerFactory, make_node: JoinedNodeFactory
) -> None:
    llb = await make_llb().start()
    node = make_node(llb, "garage")
    await start_and_connect(node)
    await llb.pull_model("tiny")
    await wait_until_held(llb, "tiny", "attic", "garage")
    for pinned in (True, False):
        await node.stop()
        answer = await llb.http.patch("/api/models/tiny", json={"pinned": pinned})
        assert (answer.status_code, answer.json()["pinned"]) == (200, pinned)
        node = make_node(llb, "garage")
        await start_and_connect(node)
        await wait_until(lambda: node.app.agent._replicas["tiny"].pinned == pinned)  # noqa: B023
    # A retry keeps it, and a deletion removes it.
    await llb.http.patch("/api/models/tiny", json={"pinned": True})
    assert (await llb.http.delete("/api/models/tiny")).status_code == 204
    await llb.pull_model("tiny")
    assert not (await llb.get_model("tiny"))["pinned"]


async def test_a_model_is_pinned_and_unloaded_on_every_node_that_holds_it(
    make_llb: BalancerFactory, make_node: JoinedNodeFactory, hub: HubStandIn, chat_gguf: Path, tmp_path: Path
) -> None:
    hub.add_repo("test/chat", {"chat.gguf": chat_gguf})
    catalog = write_catalog(tmp_path / "chat.json", {"id": "chat", "size_bytes": chat_gguf.stat().st_size})
    llb = await make_llb(catalog=catalog).start()
    nodes = [make_node(llb, "garage"), make_node(llb, "cellar")]
    await start_and_connect(*nodes)
    await llb.pull_model("chat")
    await wait_until_held(llb, "chat", "attic", "garage", "cellar")
    agents = [llb.app.agent, *(node.app.agent for node in nodes)]
    assert (await llb.http.patch("/api/models/chat", json={"pinned": True})).status_code == 200
    await llb.wait_until(lambda: all(agent._replicas["chat"].pinned for agent in agents))
    for agent in agents:
        async with await agent.acquire_lease("chat", deadline_s=20):
            pass
    await llb.http.patch("/api/models/chat", json={"pinned": False})
    assert (await llb.http.post("/api/models/chat/unload")).status_code == 204
    assert all(agent.engine_pool._engines["chat"].process.state is EngineState.STOPPED for agent in agents)
    # An unreachable node is named, and the others have obeyed.
    for agent in agents:
        async with await agent.acquire_lease("chat", deadline_s=20):
            pass
    llb.app.cluster.node_connections.disconnect_node(nodes[0].id)
    answer = await llb.http.post("/api/models/chat/unload")
    assert (answer.status_code, answer.json()["error"]["message"]) == (502, "Node 'garage' cannot be reached")
    states = [agent.engine_pool._engines["chat"].process.state for agent in agents]
    assert states == [EngineState.STOPPED, EngineState.READY, EngineState.STOPPED]
