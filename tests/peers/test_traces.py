"""One id for a request on every host that it meets: its log lines, and the history."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import httpx
import pytest

from llb import logs
from tests.api.test_traces import PARENT, TRACE
from tests.conftest import LlbMaker, NodeMaker
from tests.harness import JoinedLlb, Llb, write_catalog
from tests.hub import HubStandIn

QUESTION = {"model": "chat", "messages": [{"role": "user", "content": "Count."}], "max_tokens": 4}


@pytest.fixture
async def cluster(
    make_llb: LlbMaker, make_node: NodeMaker, hub: HubStandIn, chat_gguf: Path, tmp_path: Path
) -> tuple[Llb, JoinedLlb]:
    """A balancer that offers nothing itself, and a node that has the model `chat`."""
    hub.add_repo("test/chat", {"chat.gguf": chat_gguf})
    catalog = write_catalog(tmp_path / "chat.json", {"id": "chat", "size_bytes": chat_gguf.stat().st_size})
    llb = await make_llb(catalog=catalog, memory_limit_bytes=1).start()
    node = await make_node(llb, "garage").start()
    await node.online()
    await llb.pull("chat")
    return llb, node


async def test_a_log_line_of_any_host_and_the_history_meet(
    cluster: tuple[Llb, JoinedLlb], caplog: pytest.LogCaptureFixture
) -> None:
    llb, node = cluster
    caplog.handler.setFormatter(logs.JsonFormatter())
    headers = {
        "Authorization": f"Bearer {await llb.new_key()}",
        "X-Request-ID": "my-id.1",
        "traceparent": PARENT,
    }
    # By the door of the joined host: through it, through the balancer, and to the joined host's engine.
    with caplog.at_level(logging.DEBUG, "llb.api"):
        async with httpx.AsyncClient(
            base_url=node.url, headers=headers, timeout=30, trust_env=False
        ) as client:
            answer = await client.post("/v1/chat/completions", json=QUESTION)
    assert answer.status_code == 200
    assert answer.headers["x-request-id"] == "my-id.1"
    lines = [json.loads(line) for line in caplog.text.splitlines()]
    of_it = [(line["logger"], line["trace_id"]) for line in lines if line.get("request_id") == "my-id.1"]
    assert of_it == [("llb.api.hop", TRACE), ("llb.api.requests", TRACE)]

    found = await llb.http.get("/api/requests", params={"request_id": "my-id.1"})
    assert [(row["request_id"], row["status"]) for row in found.json()["requests"]] == [("my-id.1", 200)]
    assert (await llb.http.get("/api/requests", params={"request_id": "other"})).json()["requests"] == []
