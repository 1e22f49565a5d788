"""Requests that crash or hang engines of several hosts: the failure is not carried from host to host."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.conftest import BalancerFactory, JoinedNodeFactory
from tests.engine.crashing_engines import CrashingEngines, ask, error_code, victim_stream
from tests.harness import RunningBalancer, RunningJoinedNode, wait_until, write_catalog
from tests.hub import HubStandIn

Cluster = tuple[RunningBalancer, RunningJoinedNode]


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CrashingEngines:
    return CrashingEngines(tmp_path, monkeypatch)


@pytest.fixture
async def two_hosts(
    engines: CrashingEngines,
    make_llb: BalancerFactory,
    make_node: JoinedNodeFactory,
    hub: HubStandIn,
    chat_gguf: Path,
    tmp_path: Path,
) -> RunningBalancer:
    """A balancer and a joined node that both have the model `chat` loaded."""
    hub.add_repo("test/chat", {"chat.gguf": chat_gguf})
    catalog = write_catalog(tmp_path / "chat.json", {"id": "chat", "size_bytes": chat_gguf.stat().st_size})
    llb = await make_llb(catalog=catalog, parallel=8).start()
    node = await make_node(llb, "garage", parallel=8).start()
    await node.wait_until_online()
    await llb.pull_model("chat")
    await llb.wait_until(lambda: llb.app.gateway.admission.serving_node_count("chat") == 2)
    for agent in (llb.app.agent, node.app.agent):
        await agent.load_model("chat")
    await wait_until(lambda: sum(bool(each.engines) for each in llb.app.cluster.view.online_nodes()) == 2)
    return llb


@pytest.mark.parametrize("poison", ["CRASH", "LATE_CRASH", "HANG"])
async def test_a_request_that_ends_the_engine_of_a_node_is_refused_from_then_on(
    engines: CrashingEngines, cluster: Cluster, poison: str
) -> None:
    llb, _ = cluster
    attacker, good = await llb.create_key(), await llb.create_key()
    async with victim_stream(llb, good) as victim:
        for stream in (True, False):
            refused = await ask(llb, poison, key=attacker, stream=stream, max_tokens=1000)
            assert (refused.status_code, error_code(refused)) == (400, "request_crashes_engine")
            # The same request is refused, from any sender.
            again = await ask(llb, poison, key=good, stream=stream, max_tokens=1000)
            assert (again.status_code, error_code(again)) == (400, "request_crashes_engine")
            assert (await ask(llb, key=good)).status_code == 200
        await victim.ended.wait()
        assert victim.error_code == "engine_failed"
    # The body of the second request was another one.
    assert len(engines.pids) == 3


@pytest.mark.parametrize("poison", ["CRASH", "LATE_CRASH", "HANG"])
async def test_one_request_ends_one_engine_of_two(
    two_hosts: RunningBalancer, engines: CrashingEngines, poison: str
) -> None:
    llb = two_hosts
    attacker, good = await llb.create_key(), await llb.create_key()
    async with AsyncExitStack() as stack:
        victims = [await stack.enter_async_context(victim_stream(llb, good)) for _ in range(6)]
        assert {victim.node_name for victim in victims} == {"attic", "garage"}
        refused = await ask(llb, poison, key=attacker, max_tokens=1000)
        assert (refused.status_code, error_code(refused)) == (400, "request_crashes_engine")
        await wait_until(lambda: any(victim.error_code for victim in victims))
        hit = next(victim.node_name for victim in victims if victim.ended.is_set() or victim.error_code)
        await asyncio.gather(*(victim.ended.wait() for victim in victims if victim.node_name == hit))
        again = await ask(llb, poison, key=attacker, max_tokens=1000)
        assert error_code(again) == "request_crashes_engine"
        spared = [victim for victim in victims if victim.node_name != hit]
        assert spared
        assert not any(victim.ended.is_set() for victim in spared)
        assert (await ask(llb, key=good)).status_code == 200
    assert len(engines.pids) <= 3


async def test_what_waits_for_its_answer_gets_it_from_another_engine(
    two_hosts: RunningBalancer, engines: CrashingEngines
) -> None:
    llb = two_hosts
    begun = engines.answers_begun()
    waiting = [asyncio.ensure_future(ask(llb, max_tokens=60)) for _ in range(6)]
    # Else they would be as suspect as the other request.
    await wait_until(lambda: engines.answers_begun() == begun + 6)
    assert (await ask(llb, "CRASH")).status_code == 400
    assert [(await answer).status_code for answer in waiting] == [200] * 6
    assert len(engines.pids) <= 3
