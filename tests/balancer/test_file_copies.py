"""Copies between whole hosts: a balancer, and one that has joined it over HTTP and a WebSocket."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import TINY_BYTES, LlbMaker
from tests.harness import JoinedLlb, eventually
from tests.hub import HubStandIn


async def test_a_joined_host_copies_from_its_balancer_and_is_copied_from(
    make_llb: LlbMaker, tmp_path: Path, hub: HubStandIn
) -> None:
    balancer = await make_llb().start()
    await balancer.online()
    await balancer.pull("tiny")
    view, reach = balancer.app.view, balancer.app.node_connections
    async with JoinedLlb(balancer, tmp_path / "cellar") as cellar:
        await balancer.until(lambda: view.status_of("tiny").available_nodes == 2)
        assert (cellar.home / "models" / "tiny" / "tiny.gguf").stat().st_size == TINY_BYTES
        await eventually(lambda: reach.route_of(cellar.id) is not None)
        (balancer.home / "models" / "tiny" / "tiny.gguf").unlink()  # so that cellar alone can give it
        agent = balancer.app.agent
        assert not await agent._replica_worker.check_files(agent._replicas["tiny"])
        await balancer.until(lambda: view.status_of("tiny").available_nodes == 1)
        async with JoinedLlb(balancer, tmp_path / "loft") as loft:
            await balancer.until(lambda: view.status_of("tiny").available_nodes == 2)
            assert (loft.home / "models" / "tiny" / "tiny.gguf").stat().st_size == TINY_BYTES
    assert hub.bytes_sent == TINY_BYTES
