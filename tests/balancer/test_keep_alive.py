"""keep_alive of a caller who may not unload models: it lengthens within the host's own, in every dialect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from llb.wire import EngineState
from tests.conftest import BalancerFactory, start_balancer
from tests.engine.crashing_engines import CrashingEngines
from tests.harness import RunningBalancer, wait_until, write_catalog
from tests.hub import HubStandIn

MESSAGES = [{"role": "user", "content": "count"}]
REQUESTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/chat/completions", {"messages": MESSAGES}),
    ("/v1/messages", {"messages": MESSAGES, "max_tokens": 3}),
    ("/v1/responses", {"input": "count"}),
    ("/api/chat", {"messages": MESSAGES, "stream": False}),
    ("/api/generate", {"prompt": "count"}),
)


@pytest.fixture
async def llb(
    make_llb: BalancerFactory,
    hub: HubStandIn,
    chat_gguf: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> RunningBalancer:
    """A balancer with the model `chat`, which stays loaded for a minute."""
    CrashingEngines(tmp_path, monkeypatch)
    hub.add_repo("test/chat", {"chat.gguf": chat_gguf})
    catalog = write_catalog(tmp_path / "chat.json", {"id": "chat", "size_bytes": chat_gguf.stat().st_size})
    llb = await start_balancer(make_llb(catalog=catalog, keep_alive_s=60.0))
    await llb.pull_model("chat")
    return llb


def keep_alive_s(llb: RunningBalancer) -> float:
    return llb.app.local_node.engine_pool._engines["chat"].leases._keep_alive_s


@pytest.mark.parametrize("keep_alive", [0, "0s", -1, "-1", 1e308, "9999h", "1s"])
async def test_a_user_neither_unloads_nor_holds_a_model(
    llb: RunningBalancer, keep_alive: str | float
) -> None:
    key = await llb.create_key("inference")
    async with httpx.AsyncClient(
        base_url=llb.url, headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=30
    ) as http:
        for path, body in REQUESTS:
            await http.post(path, json={"model": "chat", "keep_alive": keep_alive, **body})
            [report] = llb.app.local_node.engine_pool.engine_reports()
            assert report.state in (EngineState.READY, EngineState.BUSY), path
            assert keep_alive_s(llb) == 60.0, path


async def test_a_user_lengthens_what_an_administrator_has_shortened(llb: RunningBalancer) -> None:
    body = {"model": "chat", "messages": MESSAGES}
    assert (await llb.http.post("/v1/chat/completions", json={**body, "keep_alive": 20})).is_success
    assert keep_alive_s(llb) == 20.0
    key = await llb.create_key("inference")
    for asked, expected in ((10, 20.0), (30, 30.0), (600, 60.0)):
        answer = await llb.http.post(
            "/v1/chat/completions",
            json={**body, "keep_alive": asked},
            headers={"Authorization": f"Bearer {key}"},
        )
        assert answer.is_success
        assert keep_alive_s(llb) == expected
    assert (await llb.http.post("/v1/chat/completions", json={**body, "keep_alive": 0})).is_success
    await wait_until(lambda: not llb.app.local_node.engine_pool.engine_reports())
