"""Deletion of models: every node obeys it, however late it connects, and nothing else is removed."""

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
def probe_gate(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Gate that delays the hardware probe of a node, and so its hello, until it is set."""
    gate = asyncio.Event()
    gate.set()
    probe = HardwareProbe.probe

    async def probe_behind_gate(self: HardwareProbe) -> HardwareInfo:
        await gate.wait()
        return await probe(self)

    monkeypatch.setattr(HardwareProbe, "probe", probe_behind_gate)
    return gate


async def test_a_model_deleted_before_its_node_is_there_is_removed_when_it_comes(
    make_llb: BalancerFactory, probe_gate: asyncio.Event
) -> None:
    llb = await make_llb().start()
    await llb.wait_until_online()
    await llb.pull_model("tiny")
    await llb.stop()
    probe_gate.clear()
    llb = await make_llb().start()
    assert (await llb.http.delete("/api/models/tiny")).status_code == 204
    probe_gate.set()
    await wait_until(lambda: not (llb.home / "models" / "tiny").exists())
    await llb.wait_until(lambda: "tiny" not in llb.app.cluster.view.registrations)


async def test_a_tombstone_that_no_node_knows_of_is_taken_away_at_the_next_hello(
    make_llb: BalancerFactory, probe_gate: asyncio.Event, hub: HubStandIn
) -> None:
    probe_gate.clear()
    hub.stop_listening()
    llb = await make_llb().start()
    await llb.register_model("tiny")
    await llb.http.delete("/api/models/tiny")
    assert not llb.app.cluster.view.registrations["tiny"].is_active
    await llb.stop()
    probe_gate.set()
    llb = await make_llb().start()
    await wait_until(lambda: "tiny" not in llb.app.cluster.view.registrations)


async def test_a_model_that_rests_can_be_deleted(llb: RunningBalancer) -> None:
    await llb.pull_model("tiny")
    agent = llb.app.agent
    nothing_wanted = DesiredState(cluster_id="", revision=agent._revision, models=())
    agent._reconcile(nothing_wanted)
    await wait_until(lambda: (task := agent._replicas["tiny"].current_task) is not None and task.done())
    await llb.http.delete("/api/models/tiny")
    await llb.wait_until(lambda: "tiny" not in llb.app.cluster.view.registrations)
    assert not (llb.home / "models" / "tiny").exists()


async def test_registering_at_the_very_end_of_a_deletion(
    llb: RunningBalancer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    is_persisting, may_persist = asyncio.Event(), asyncio.Event()
    persist = NodeAgent._persist

    async def delay_persist(self: NodeAgent, record: ReplicaRecord) -> None:
        if record.state is ReplicaState.GONE:
            is_persisting.set()
            await may_persist.wait()
        await persist(self, record)

    monkeypatch.setattr(NodeAgent, "_persist", delay_persist)
    await llb.pull_model("tiny")
    await llb.http.delete("/api/models/tiny")
    await is_persisting.wait()
    before = llb.app.agent._replicas["tiny"]
    assert (await llb.register_model("tiny")).status_code == 202
    await wait_until(
        lambda: before.desired_model is not None or llb.app.agent._replicas["tiny"] is not before
    )
    may_persist.set()
    await llb.wait_for_status("tiny", "Ready")
    assert "crashed" not in caplog.text


async def test_a_slow_deletion_does_not_take_what_was_registered_anew(
    llb: RunningBalancer, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, finished = threading.Event(), threading.Event()
    remove = ModelFiles.remove_files

    def remove_slowly(self: ModelFiles, model_id: str, filenames: Sequence[str]) -> None:
        started.set()
        # The time of a slow disk: verifying a file that is still on disk takes less.
        time.sleep(0.3)
        remove(self, model_id, filenames)
        finished.set()

    await llb.pull_model("tiny")
    monkeypatch.setattr(ModelFiles, "remove_files", remove_slowly)
    await llb.http.delete("/api/models/tiny")
    await wait_until(started.is_set)
    assert (await llb.register_model("tiny")).status_code == 202
    await llb.wait_until(lambda: llb.app.agent._replicas["tiny"].state is ReplicaState.READY)
    await wait_until(finished.is_set)
    assert (llb.home / "models" / "tiny" / "tiny.gguf").is_file()
