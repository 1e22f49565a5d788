"""Peer copies between a balancer and its joined nodes."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import TINY_BYTES, BalancerFactory
from tests.harness import RunningJoinedNode, wait_until
from tests.hub import HubStandIn


async def test_a_joined_node_copies_from_its_balancer_and_serves_copies(
    make_llb: BalancerFactory, tmp_path: Path, hub: HubStandIn
) -> None:
    balancer = await make_llb().start()
    await balancer.wait_until_online()
    await balancer.pull_model("tiny")
    view, node_connections = balancer.app.cluster.view, balancer.app.cluster.node_connections
    async with RunningJoinedNode(balancer, tmp_path / "cellar") as cellar:
        await balancer.wait_until(lambda: view.status_of("tiny").available_nodes == 2)
        assert (cellar.home / "models" / "tiny" / "tiny.gguf").stat().st_size == TINY_BYTES
        await wait_until(lambda: node_connections.route_of(cellar.id) is not None)
        # So that cellar is the only source.
        (balancer.home / "models" / "tiny" / "tiny.gguf").unlink()
        agent = balancer.app.agent
        assert not await agent._replica_worker.check_files(agent._replicas["tiny"])
        await balancer.wait_until(lambda: view.status_of("tiny").available_nodes == 1)
        async with RunningJoinedNode(balancer, tmp_path / "loft") as loft:
            await balancer.wait_until(lambda: view.status_of("tiny").available_nodes == 2)
            assert (loft.home / "models" / "tiny" / "tiny.gguf").stat().st_size == TINY_BYTES
    assert hub.bytes_sent == TINY_BYTES
