"""Node agent in a real balancer: faults around it cost neither the node nor a download."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import structs

from llb.hardware import HardwareProbe
from llb.node import agent as agent_module
from llb.wire import (
    Capability,
    DesiredModel,
    DesiredState,
    EngineReport,
    EngineState,
    FileSpec,
    HubSource,
    Meters,
    NodeStatusChanged,
    ReplicaState,
    Speculation,
)
from tests.conftest import TINY_BYTES, BalancerFactory
from tests.harness import RunningBalancer, wait_until
from tests.hub import HubStandIn


async def test_a_node_whose_link_failed_comes_back(
    make_llb: BalancerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "HEARTBEAT_INTERVAL_S", 0.02)
    llb = await make_llb().start()
    await llb.wait_until_online()
    await llb.pull_model("tiny")
    meters = HardwareProbe.measure_utilisation
    failed: list[str] = []

    async def fail_once(self: HardwareProbe) -> Meters:
        if not failed:
            failed.append("now")
            raise RuntimeError("a driver that broke")
        return await meters(self)

    events = llb.app.base.event_bus.subscribe(10_000)._queue

    def statuses() -> list[str]:
        return [event.status for event in events if isinstance(event, NodeStatusChanged)]

    monkeypatch.setattr(HardwareProbe, "measure_utilisation", fail_once)
    await wait_until(lambda: "offline" in statuses() and statuses()[-1] == "online")
    await llb.wait_for_status("tiny", "Ready")


async def test_files_that_cannot_be_looked_at_are_an_error_and_not_the_end(make_llb: BalancerFactory) -> None:
    llb = await make_llb().start()
    await llb.wait_until_online()
    await llb.pull_model("tiny")
    await llb.stop()
    directory = llb.home / "models" / "tiny"
    (directory / "tiny.gguf").unlink()
    directory.rmdir()
    # Every access to it fails.
    directory.symlink_to(directory)
    llb = await make_llb().start()
    await llb.wait_for_status("tiny", "Error")
    error = (await llb.get_model("tiny"))["error"]
    assert error.startswith("file cannot be read: tiny.gguf")
    assert str(llb.home) not in error


async def test_other_files_are_fetched_after_an_error_of_the_same_attempt(
    llb: RunningBalancer, hub: HubStandIn
) -> None:
    def create_desired_state(commit: str, revision: int) -> DesiredState:
        spec = FileSpec(
            name="tiny.gguf",
            size_bytes=TINY_BYTES,
            sha256=hub.sha256("test/tiny", "tiny.gguf") if commit != "0" * 40 else "0" * 64,
            sources=(HubSource(repo="test/tiny", commit=commit),),
        )
        model = DesiredModel(
            model_id="tiny",
            attempt=1,
            files=(spec,),
            required_memory_bytes=64_000_000,
            capabilities=(Capability.TEXT_GENERATION,),
        )
        return DesiredState(cluster_id="", revision=revision, models=(model,))

    agent = llb.app.agent
    agent._reconcile(create_desired_state("0" * 40, 1_000_001))
    await wait_until(lambda: agent._replicas["tiny"].state is ReplicaState.ERROR)
    resolved = await llb.app.base.hub.resolve_file("test/tiny", "tiny.gguf")
    agent._reconcile(create_desired_state(resolved.commit, 1_000_002))
    await wait_until(lambda: agent._replicas["tiny"].state is ReplicaState.READY)


async def test_another_draft_model_is_no_other_download(llb: RunningBalancer) -> None:
    await llb.pull_model("tiny")
    agent = llb.app.agent
    desired = agent._replicas["tiny"].desired_model
    assert desired is not None
    drafted: DesiredModel = structs.replace(desired, draft="small", speculation=Speculation.MTP)
    assert drafted.is_same_download(desired)
    agent._reconcile(DesiredState(cluster_id="", revision=1_000_003, models=(drafted,)))
    assert agent._replicas["tiny"].state is ReplicaState.READY
    engine = agent.engine_pool._engines["tiny"]
    assert (engine.draft_id, engine.speculation) == ("small", "mtp")


async def test_a_model_is_used_for_as_long_as_its_engine_is_busy(llb: RunningBalancer) -> None:
    await llb.pull_model("tiny")
    agent, replica = llb.app.agent, llb.app.agent._replicas["tiny"]
    report = EngineReport(
        model_id="tiny", state=EngineState.READY, slots=1, busy=0, context_length=None, memory_bytes=0
    )
    busy = structs.replace(report, state=EngineState.BUSY)
    long_ago = 5.0

    async def store() -> None:
        await agent._store_last_used()

    async def become(new_report: EngineReport) -> None:
        agent.on_engine_changed(new_report)

    replica.last_used = long_ago
    await become(report)
    await store()
    assert replica.last_used == long_ago
    for use in (become(busy), store(), become(report)):
        replica.last_used = long_ago
        await use
        assert replica.last_used > long_ago


async def test_when_a_model_was_used_is_stored_once(llb: RunningBalancer, tmp_path: Path) -> None:
    await llb.pull_model("tiny")
    agent = llb.app.agent
    agent._replicas["tiny"].last_used = 5.0
    await agent._store_last_used()
    changes = llb.app.db._writer.total_changes
    await agent._store_last_used()
    assert llb.app.db._writer.total_changes == changes
