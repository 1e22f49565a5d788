from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.conftest import balancer_factory
from tests.harness import RunningBalancer, write_catalog
from tests.hub import HubStandIn


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(
    tmp_path_factory: pytest.TempPathFactory, endless_gguf: Path
) -> AsyncIterator[RunningBalancer]:
    """A balancer with a model, shared by the tests of a module."""
    folder = tmp_path_factory.mktemp("front")
    catalog = write_catalog(folder / "c.json", {"id": "chat", "size_bytes": endless_gguf.stat().st_size})
    with HubStandIn() as hub:
        hub.add_repo("test/chat", {"chat.gguf": endless_gguf})
        async with balancer_factory(folder / "home", hub, catalog) as make:
            llb = await make(parallel=2).start()
            await llb.wait_until_online()
            await llb.pull_model("chat")
            # Later answers are no longer aggregated from a stream: it is known how long they take.
            question = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
            for _ in range(2):
                answer = await llb.http.post("/v1/chat/completions", json=question)
                assert answer.status_code == 200, answer.text
            yield llb
