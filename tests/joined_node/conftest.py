from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import BalancerFactory, JoinedNodeFactory
from tests.harness import RunningBalancer, RunningJoinedNode, write_catalog
from tests.hub import HubStandIn


@pytest.fixture
async def cluster(
    make_llb: BalancerFactory, make_node: JoinedNodeFactory, hub: HubStandIn, chat_gguf: Path, tmp_path: Path
) -> tuple[RunningBalancer, RunningJoinedNode]:
    """A balancer whose local node holds no model, and a joined node with the model `chat`."""
    hub.add_repo("test/chat", {"chat.gguf": chat_gguf})
    catalog = write_catalog(tmp_path / "chat.json", {"id": "chat", "size_bytes": chat_gguf.stat().st_size})
    llb = await make_llb(catalog=catalog, memory_limit_bytes=1).start()
    node = await make_node(llb, "garage").start()
    await node.wait_until_online()
    await llb.pull_model("chat")
    return llb, node


@pytest.fixture
async def anonymous_client(
    cluster: tuple[RunningBalancer, RunningJoinedNode],
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the joined node without credentials."""
    async with httpx.AsyncClient(base_url=cluster[1].url, timeout=30, trust_env=False) as client:
        yield client
