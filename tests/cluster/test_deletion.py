"""A deletion is obeyed by every node, however late, and forgets nothing but what it was asked to."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence

import pytest

from llb.hardware import HardwareInfo, HardwareProbe
from llb.node.agent import NodeAgent
from llb.node.files import ModelFiles
from llb.store.tables.replicas import ReplicaRecord
from llb.wire import DesiredState, ReplicaState
from tests.conftest import BalancerFactory
from tests.harness import RunningBalancer, wait_until
from tests.hub import HubStandIn


@pytest.fixture
def may_look(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Until it is set, nodes that start do not get so far as to say hello."""
    gate = asyncio.Event()
    gate.set()
    probe = HardwareProbe.probe

    async def held(self: HardwareProbe) -> HardwareInfo:
        await gate.wait()
        return await probe(self)

    monkeypatch.setattr(HardwareProbe, "probe", held)
    return gate


async def test_a_model_deleted_before_its_node_is_there_is_removed_when_it_comes(
    make_llb: BalancerFactory, may_look: asyncio.Event
) -> None:
    llb = await make_llb().start()
    await llb.wait_until_online()
    await llb.pull_model("tiny")
    await llb.stop()
    may_look.clear()
    llb = await make_llb().start()
    assert (await llb.http.delete("/api/models/tiny")).status_code == 204
    may_look.set()
    await wait_until(lambda: not (llb.home / "models" / "tiny").exists())
    await llb.wait_until(lambda: "tiny" not in llb.app.view.registrations)


async def test_a_tombstone_that_no_node_knows_of_is_taken_away_at_the_next_hello(
    make_llb: BalancerFactory, may_look: asyncio.Event, hub: HubStandIn
) -> None:
    may_look.clear()
    hub.stop_listening()
    llb = await make_llb().start()
    await llb.register_model("tiny")
    await llb.http.delete("/api/models/tiny")
    assert not llb.app.view.registrations["tiny"].is_active
    await llb.stop()
    may_look.set()
    llb = await make_llb().start()
    await wait_until(lambda: "tiny" not in llb.app.view.registrations)


async def test_a_model_that_rests_can_be_deleted(llb: RunningBalancer) -> None:
    await llb.pull_model("tiny")
    agent = llb.app.agent
    nothing_wanted = DesiredState(cluster_id="", revision=agent._revision, models=())
    agent._reconcile(nothing_wanted)
    await wait_until(lambda: (task := agent._replicas["tiny"].current_task) is not None and task.done())
    await llb.http.delete("/api/models/tiny")
    await llb.wait_until(lambda: "tiny" not in llb.app.view.registrations)
    assert not (llb.home / "models" / "tiny").exists()


async def test_registering_at_the_very_end_of_a_deletion(
    llb: RunningBalancer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    at_the_end, go_on = asyncio.Event(), asyncio.Event()
    persist = NodeAgent._persist

    async def held(self: NodeAgent, record: ReplicaRecord) -> None:
        if record.state is ReplicaState.GONE:
            at_the_end.set()
            await go_on.wait()
        await persist(self, record)

    monkeypatch.setattr(NodeAgent, "_persist", held)
    await llb.pull_model("tiny")
    await llb.http.delete("/api/models/tiny")
    await at_the_end.wait()
    before = llb.app.agent._replicas["tiny"]
    assert (await llb.register_model("tiny")).status_code == 202
    await wait_until(
        lambda: before.desired_model is not None or llb.app.agent._replicas["tiny"] is not before
    )
    go_on.set()
    await llb.wait_for_status("tiny", "Ready")
    assert "crashed" not in caplog.text


async def test_a_slow_deletion_does_not_take_what_was_registered_anew(
    llb: RunningBalancer, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, ended = threading.Event(), threading.Event()
    remove = ModelFiles.remove_files

    def slow(self: ModelFiles, model_id: str, filenames: Sequence[str]) -> None:
        began.set()
        time.sleep(0.3)  # the disk's, not the test's: a pull of a file that still lies there takes less
        remove(self, model_id, filenames)
        ended.set()

    await llb.pull_model("tiny")
    monkeypatch.setattr(ModelFiles, "remove_files", slow)
    await llb.http.delete("/api/models/tiny")
    await wait_until(began.is_set)
    assert (await llb.register_model("tiny")).status_code == 202
    await llb.wait_until(lambda: llb.app.agent._replicas["tiny"].state is ReplicaState.READY)
    await wait_until(ended.is_set)
    assert (llb.home / "models" / "tiny" / "tiny.gguf").is_file()
