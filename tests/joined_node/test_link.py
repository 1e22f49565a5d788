"""Control link of a joined node: reconnection, rejection, and other protocol versions."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from websockets.exceptions import InvalidStatus

from llb.cluster.link.link_server import SILENCE_TIMEOUT_S
from llb.node.agent import HEARTBEAT_INTERVAL_S
from llb.store.tables import nodes
from llb.wire import PROTOCOL_VERSION, EngineState, NodeStatus
from tests.conftest import BalancerFactory, JoinedNodeFactory
from tests.harness import RunningBalancer, RunningJoinedNode, wait_until, write_catalog
from tests.hub import HubStandIn
from tests.joined_node.wire import HEARTBEAT, PROTOCOL_1_HELLO, join_node, open_link


async def get_readiness_problem(node: RunningJoinedNode) -> str | None:
    """The reason in `/readyz` of a joined node; None if it is ready."""
    answer = await node.http.get("/readyz")
    readiness = answer.json()
    assert answer.status_code == (200 if readiness["reason"] is None else 503)
    assert node.balancer.url not in answer.text
    return None if readiness["reason"] is None else str(readiness["reason"])


async def wait_for_problem(node: RunningJoinedNode, text: str) -> None:
    await wait_until(lambda: text in (node.app.problem or ""))
    assert text in str(await get_readiness_problem(node))


def test_the_times_are_those_of_the_contract() -> None:
    """The tests wait for shorter ones, in the same ratio."""
    assert (HEARTBEAT_INTERVAL_S, SILENCE_TIMEOUT_S) == (5, 15)


# --- reconnection ---------------------------------------------------------------------------------


async def test_a_balancer_that_restarts_finds_its_node_as_it_was(
    make_llb: BalancerFactory, make_node: JoinedNodeFactory
) -> None:
    llb = await make_llb().start()
    node = await make_node(llb, "garage").start()
    await node.wait_until_online()
    await llb.pull_model("tiny")
    await wait_until(lambda: llb.app.cluster.view.status_of("tiny").available_nodes == 2)
    port = llb.port
    await llb.stop()
    await wait_for_problem(node, "the balancer cannot be reached")
    assert (await node.http.get("/health")).status_code == 200
    llb = node.balancer = await make_llb().start(port)
    shown = (await llb.http.get(f"/api/nodes/{node.id}")).json()
    assert shown["name"] == "garage"
    await node.wait_until_online()
    assert await get_readiness_problem(node) is None
    await wait_until(lambda: llb.app.cluster.view.status_of("tiny").available_nodes == 2)


async def test_a_node_that_starts_while_its_balancer_is_down_dials_until_it_is_there(
    make_llb: BalancerFactory, make_node: JoinedNodeFactory
) -> None:
    llb = await make_llb().start()
    node = await make_node(llb, "garage").start()
    await node.wait_until_online()
    port = llb.port
    await node.stop()
    await llb.stop()
    node = await make_node(llb, "garage").start()
    await wait_for_problem(node, "the balancer cannot be reached: connect")
    assert (await node.http.get("/health")).json() == {"status": "ok"}
    llb = await make_llb().start(port)
    assert llb.app.cluster.view.nodes[node.id].status in (NodeStatus.OFFLINE, NodeStatus.ONLINE)
    node.balancer = llb
    await node.wait_until_online()


async def test_when_a_node_was_last_seen_survives_a_restart(
    make_llb: BalancerFactory, make_node: JoinedNodeFactory
) -> None:
    llb = await make_llb().start()
    node = await make_node(llb, "garage").start()
    await node.wait_until_online()
    created = llb.app.cluster.members.get_record(node.id)
    await node.stop()
    await llb.stop()
    llb = await make_llb().start()
    assert created is not None
    assert llb.app.cluster.view.nodes[node.id].last_seen > created.created_at


async def test_a_link_that_breaks_costs_no_engine(
    make_llb: BalancerFactory, make_node: JoinedNodeFactory, hub: HubStandIn, chat_gguf: Path, tmp_path: Path
) -> None:
    hub.add_repo("test/chat", {"chat.gguf": chat_gguf})
    catalog = write_catalog(tmp_path / "chat.json", {"id": "chat", "size_bytes": chat_gguf.stat().st_size})
    llb = await make_llb(catalog=catalog).start()
    node = await make_node(llb, "garage").start()
    await node.wait_until_online()
    await llb.pull_model("chat")
    await wait_until(lambda: llb.app.cluster.view.status_of("chat").available_nodes == 2)
    lease = await node.app.agent.acquire_lease("chat", deadline_s=20)
    async with lease:
        pass
    before = node.app.agent.engine_pool._engines["chat"].process
    view = llb.app.cluster.view
    first = view.nodes[node.id]
    await llb.app.cluster.link_server._sessions[node.id].link.close()
    await wait_until(lambda: view.nodes[node.id] is not first)
    await node.wait_until_online()
    await wait_until(lambda: "chat" in view.nodes[node.id].engines)
    assert node.app.agent.engine_pool._engines["chat"].process is before
    assert before.state is EngineState.READY


async def test_a_defect_costs_the_link_and_never_the_node(
    llb: RunningBalancer, make_node: JoinedNodeFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await make_node(llb, "garage").start()
    await node.wait_until_online()
    before = llb.app.cluster.view.nodes[node.id]

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(node.app.agent, "_reconcile", fail)
    await llb.register_model("tiny")
    await wait_for_problem(node, "the link to the balancer failed; see the log")
    monkeypatch.undo()
    await wait_until(lambda: llb.app.cluster.view.nodes[node.id] is not before)
    await node.wait_until_online()


async def test_clocks_that_are_apart_are_told_of(
    llb: RunningBalancer,
    make_node: JoinedNodeFactory,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("llb.cluster.link.link_server.time", SimpleNamespace(time=lambda: time.time() - 3600))
    node = await make_node(llb, "garage").start()
    await node.wait_until_online()
    assert "the clocks of this host and its balancer differ by 3600 s: synchronise both with NTP" in (
        caplog.text
    )


# --- rejection ------------------------------------------------------------------------------------


async def test_a_node_that_is_removed_is_told_so_and_its_credential_is_dead(
    llb: RunningBalancer, make_node: JoinedNodeFactory
) -> None:
    node = await make_node(llb, "garage").start()
    await node.wait_until_online()
    await llb.pull_model("tiny")
    await wait_until(lambda: llb.app.cluster.view.status_of("tiny").available_nodes == 2)
    member = node.app.membership
    assert member is not None
    assert (await llb.http.delete(f"/api/nodes/{node.id}")).status_code == 204
    await wait_for_problem(node, "this node was removed by the balancer: run 'llb leave'")
    assert node.id not in llb.app.cluster.view.nodes
    assert llb.app.cluster.view.status_of("tiny").available_nodes == 1
    assert llb.app.cluster.node_connections.route_of(node.id) is None
    # Its files are kept.
    assert (node.home / "models" / "tiny" / "tiny.gguf").is_file()
    with pytest.raises(InvalidStatus) as refused:
        async with open_link(llb, member.credential):
            pass
    assert refused.value.response.status_code == 401
    dead = {"Authorization": f"Bearer {member.credential}"}
    assert (await llb.http.post("/api/nodes/leave", headers=dead)).status_code == 401
    await node.stop()
    node = await make_node(llb, "garage").start()
    await wait_for_problem(node, "the balancer does not know this node any more: run 'llb leave'")


async def test_of_a_home_and_its_copy_the_first_stays_and_the_second_is_told(
    llb: RunningBalancer, make_node: JoinedNodeFactory, tmp_path: Path
) -> None:
    first = await make_node(llb, "garage").start()
    await first.wait_until_online()
    shutil.copytree(first.home, tmp_path / "copy", ignore=shutil.ignore_patterns("llb.db*"))
    node = llb.app.cluster.view.nodes[first.id]
    second = await make_node(llb, "copy").start()
    assert second.id == first.id
    await wait_for_problem(second, "another host is connected as this node: one home directory is a copy")
    assert llb.app.cluster.view.nodes[first.id] is node
    assert node.is_online
    assert await get_readiness_problem(first) is None
    # After the end of the first one the second may be the node: its home was moved, not copied.
    await first.stop()
    await second.stop()
    moved = await make_node(llb, "copy").start()
    await moved.wait_until_online()


async def test_a_balancer_that_lends_itself_is_no_longer_one(
    make_llb: BalancerFactory, make_node: JoinedNodeFactory, tmp_path: Path
) -> None:
    llb = await make_llb().start()
    node = await make_node(llb, "garage").start()
    await node.wait_until_online()
    port = llb.port
    await llb.stop()
    async with RunningBalancer(tmp_path / "other", **{**llb.settings, "name": "other"}) as other:
        lent = RunningJoinedNode(other, llb.home)
        await lent.start(port)
        await wait_for_problem(node, "the llb at the balancer's address redirects elsewhere")
        await lent.stop()


# --- other versions -------------------------------------------------------------------------------


async def test_a_node_of_one_version_back_is_understood(llb: RunningBalancer) -> None:
    joined = await join_node(llb, "relic")
    async with open_link(llb, joined.credential) as link:
        welcome = await link.send_hello(joined.node_id)
        assert (welcome["name"], welcome["node_id"]) == ("relic", joined.node_id)
        assert welcome["protocol"] == PROTOCOL_VERSION
        assert (await link.receive("want"))["models"] == []
        assert llb.app.cluster.view.nodes[joined.node_id].status is NodeStatus.ONLINE
        await llb.register_model("tiny")
        while not (wanted := (await link.receive("want"))["models"]):
            # The registration is being resolved.
            pass
        assert [model["model_id"] for model in wanted] == ["tiny"]
        # Unknown messages, and fields of another shape, do not end the link.
        await link.send({"type": "gossip", "of": "another version"})
        await link.send({**HEARTBEAT, "hardware": "unknown"})
        report = {"model_id": "tiny", "attempt": 1, "state": "ready", "more": 1}
        await link.send({"type": "replica", **report})
        await llb.wait_until(lambda: "tiny" in llb.app.cluster.view.nodes[joined.node_id].replicas)
    await llb.wait_until(lambda: llb.app.cluster.view.nodes[joined.node_id].status is NodeStatus.OFFLINE)


@pytest.mark.parametrize(
    ("hello", "sentence"),
    [
        (
            {"protocol": PROTOCOL_VERSION + 1, "version": "9.9"},
            "runs llb 9.9, which is newer than the balancer's",
        ),
        (
            {"protocol": 99, "version": "99.0", "hardware": ["of", "another", "shape"], "replicas": None},
            "runs llb 99.0, which is newer than the balancer's",
        ),
        ({"protocol": 0, "version": "0.0.1"}, "runs llb 0.0.1, which is too old for the balancer's"),
        ({"node_id": "somebody-else"}, "a node must say hello with its own node id"),
        ({"type": "heartbeat", **HEARTBEAT}, "the first message of a node must be a hello"),
    ],
)
async def test_a_hello_that_is_refused(llb: RunningBalancer, hello: dict[str, object], sentence: str) -> None:
    joined = await join_node(llb, "relic")
    async with open_link(llb, joined.credential) as link:
        await link.send({**PROTOCOL_1_HELLO, "node_id": joined.node_id, **hello})
        assert sentence in (await link.receive("refused"))["message"]
        await link.wait_closed()
    assert llb.app.cluster.view.nodes[joined.node_id].status is NodeStatus.JOINING


@pytest.mark.parametrize(
    "hello",
    [
        # A second hello of the same id is ordinary: only these end the link.
        {"node_id": "another", "name": "PWNED"},
        {"node_id": "local", "name": "PWNED"},
        {"node_id": "nobody", "name": "PWNED"},
        {"protocol": PROTOCOL_VERSION + 1, "name": "PWNED"},
    ],
)
async def test_a_later_hello_writes_nothing_of_another_node(
    llb: RunningBalancer, hello: dict[str, object]
) -> None:
    joined, other = await join_node(llb, "relic"), await join_node(llb, "garage")
    async with open_link(llb, other.credential) as link:
        await link.send_hello(other.node_id, name="garage")
    ids = {"another": other.node_id, "local": llb.app.agent.node_id}
    sent = {**hello, "node_id": ids.get(str(hello.get("node_id")), hello.get("node_id", joined.node_id))}
    async with open_link(llb, joined.credential) as link:
        await link.send_hello(joined.node_id)
        assert (await link.send_hello(joined.node_id))["name"] == "relic"
        stored = await nodes.list_nodes(llb.app.db)
        await link.send({**PROTOCOL_1_HELLO, "anchor": "of an attacker", **sent})
        assert (await link.receive("refused"))["message"]
        await link.wait_closed()
    after = {node.id: node for node in await nodes.list_nodes(llb.app.db)}
    assert set(after) == {node.id for node in stored}
    for node in stored:
        assert (after[node.id].name, after[node.id].hello) == (node.name, node.hello)
    assert {node["name"] for node in (await llb.http.get("/api/nodes")).json()["nodes"]} == {
        "attic",
        "garage",
        "relic",
    }


async def test_nothing_is_taken_from_a_node_before_it_has_said_what_it_has_room_for(
    llb: RunningBalancer,
) -> None:
    await llb.pull_model("tiny")
    joined = await join_node(llb, "relic")
    held = {"model_id": "tiny", "attempt": 1, "state": "ready", "total_bytes": 1}
    async with open_link(llb, joined.credential) as link:
        await link.send({**PROTOCOL_1_HELLO, "node_id": joined.node_id, "replicas": [held]})
        await link.receive("welcome")
        llb.app.cluster.link_server.push_desired_state()
        await link.send(HEARTBEAT)
        first = await link.receive("want")
        assert [model["model_id"] for model in first["models"]] == ["tiny"]
    async with open_link(llb, joined.credential) as link:
        await link.send({**PROTOCOL_1_HELLO, "node_id": joined.node_id, "replicas": [held]})
        # Its capacity is known by now.
        first = await link.receive("want")
        assert [model["model_id"] for model in first["models"]] == ["tiny"]


async def test_something_that_is_no_message_ends_the_link(llb: RunningBalancer) -> None:
    joined = await join_node(llb, "relic")
    async with open_link(llb, joined.credential) as link:
        await link.send_hello(joined.node_id)
        await link._socket.send("not JSON")
        await link.wait_closed()


async def test_a_node_that_dials_again_is_heard_at_once_and_its_old_link_no_more(
    llb: RunningBalancer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So long would the link of another host with its identity be watched.
    monkeypatch.setattr("llb.cluster.link.link_server.DUPLICATE_CHECK_TIMEOUT_S", 3600.0)
    joined = await join_node(llb, "relic")
    async with open_link(llb, joined.credential) as old, open_link(llb, joined.credential) as new:
        await old.send_hello(joined.node_id, instance="one")
        await new.send_hello(joined.node_id, instance="one")
        await old.wait_closed()
        assert llb.app.cluster.view.nodes[joined.node_id].is_online
        await new.send({"type": "replica", "model_id": "tiny", "attempt": 1, "state": "wanted"})
        await llb.wait_until(lambda: "tiny" in llb.app.cluster.view.nodes[joined.node_id].replicas)


async def test_draining_is_told_to_the_node_also_when_it_dials_again(llb: RunningBalancer) -> None:
    joined = await join_node(llb, "relic")
    path = f"/api/nodes/{joined.node_id}"
    async with open_link(llb, joined.credential) as link:
        await link.send_hello(joined.node_id)
        shown = (await llb.http.patch(path, json={"draining": True})).json()
        assert shown["draining"]
        assert (await link.receive("drain"))["draining"]
    async with open_link(llb, joined.credential) as link:
        await link.send_hello(joined.node_id)
        assert (await link.receive("drain"))["draining"]
        await llb.http.patch(path, json={"draining": False})
        assert not (await link.receive("drain"))["draining"]
