"""Trace context: one request id on every host, in log lines and in the history."""

from __future__ import annotations

import json
import logging

import httpx
import pytest

from llb.base.logs import log_setup
from tests.api.middleware.test_trace_context import PARENT, TRACE
from tests.harness import RunningBalancer, RunningJoinedNode

QUESTION = {"model": "chat", "messages": [{"role": "user", "content": "Count."}], "max_tokens": 4}


async def test_a_log_line_of_any_host_and_the_history_meet(
    cluster: tuple[RunningBalancer, RunningJoinedNode], caplog: pytest.LogCaptureFixture
) -> None:
    llb, node = cluster
    caplog.handler.setFormatter(log_setup.JsonFormatter())
    headers = {
        "Authorization": f"Bearer {await llb.create_key()}",
        "X-Request-ID": "my-id.1",
        "traceparent": PARENT,
    }
    async with httpx.AsyncClient(base_url=node.url, headers=headers, timeout=30, trust_env=False) as client:
        # The engine is loaded: a task of the joined node answers this one, callbacks the next.
        await client.post("/v1/chat/completions", json=QUESTION, headers={"X-Request-ID": "other"})
        # Through the proxy of the joined node and the balancer, to the engine of the joined node.
        with caplog.at_level(logging.DEBUG, "llb.api"):
            answer = await client.post("/v1/chat/completions", json=QUESTION)
    assert answer.status_code == 200
    assert answer.headers["x-request-id"] == "my-id.1"
    lines = [json.loads(line) for line in caplog.text.splitlines()]
    of_it = [(line["logger"], line["trace_id"]) for line in lines if line.get("request_id") == "my-id.1"]
    assert of_it == [("llb.api.internode.hop_answer", TRACE), ("llb.api.request_recorder", TRACE)]

    found = await llb.http.get("/api/requests", params={"request_id": "my-id.1"})
    assert [(row["request_id"], row["status"]) for row in found.json()["requests"]] == [("my-id.1", 200)]
    assert (await llb.http.get("/api/requests", params={"request_id": "another"})).json()["requests"] == []
