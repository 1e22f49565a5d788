"""Copies between whole hosts: a balancer, and one that has joined it over HTTP and a WebSocket."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import TINY_BYTES, LlbMaker
from tests.harness import Llb, eventually
from tests.hub import HubStandIn


async def test_a_joined_host_copies_from_its_balancer_and_the_other_way_round(
    make_llb: LlbMaker, tmp_path: Path, hub: HubStandIn
) -> None:
    balancer = await make_llb().start()
    await balancer.online()
    await balancer.pull("tiny")
    answer = await balancer.http.post("/api/nodes/join-tokens", json={})
    assert answer.status_code == 201, answer.text
    async with Llb(
        tmp_path / "cellar",
        name="cellar",
        join=balancer.url,
        join_token=answer.json()["token"],
        hub_endpoint=hub.url,
    ) as cellar:
        await balancer.until(lambda: balancer.app.view.derived("tiny").available_nodes == 2)
        assert (cellar.home / "models" / "tiny" / "tiny.gguf").stat().st_size == TINY_BYTES
        assert hub.bytes_sent == TINY_BYTES

        # What only the joined host has is copied from there.
        agent = balancer.app.agent
        await eventually(lambda: balancer.app.reach.way(cellar.app.agent.node_id) is not None)
        for path in (balancer.home / "models" / "tiny").iterdir():
            path.unlink()
        replica = agent._replicas["tiny"]
        assert not await agent._keeper.check(replica)
        await balancer.until(lambda: balancer.app.view.derived("tiny").available_nodes == 1)
        assert replica.want is not None
        await balancer.until(lambda: bool(replica.want and replica.want.copies))
        assert [source.node_name for source in replica.want.copies] == ["cellar"]
        assert hub.bytes_sent == TINY_BYTES
