"""What reaches the other host: headers of a client, load options, and back why they are refused."""

from __future__ import annotations

import gzip
import json
import random

import httpx
import pytest

from llb.gateway.inference_call import ClientSink, InferenceCall
from llb.gateway.stream.relay import RelayResult
from tests.harness import RunningBalancer, RunningJoinedNode
from tests.joined_node.credentials import bearer, get_credentials

QUESTION = {"model": "chat", "messages": [{"role": "user", "content": "Count."}], "max_tokens": 4}


async def test_encodings_hops_and_ignored_fields_come_through(
    cluster: tuple[RunningBalancer, RunningJoinedNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    llb, node = cluster
    headers = {
        "Authorization": f"Bearer {await llb.create_key('inference')}",
        "Content-Type": "application/json",
        "Content-Encoding": "gzip",
        "Via": "1.1 llb-other",
    }
    calls: list[InferenceCall] = []
    dispatch = llb.app.gateway.dispatcher.dispatch

    async def record_dispatch(call: InferenceCall, sink: ClientSink) -> RelayResult | None:
        calls.append(call)
        return await dispatch(call, sink)

    monkeypatch.setattr(llb.app.gateway.dispatcher, "dispatch", record_dispatch)
    body = json.dumps({**QUESTION, "of_no_dialect": 1}).encode()
    # Large also when it is compressed: it is streamed to the balancer.
    padding = "".join(random.Random(1).choices(" \t\n\r", k=600_000)).encode()
    async with httpx.AsyncClient(base_url=node.url, timeout=30, trust_env=False) as client:
        for document in (body, body + padding):
            answer = await client.post(
                "/v1/chat/completions", content=gzip.compress(document), headers=headers
            )
            assert answer.status_code == 200, answer.text
            assert answer.headers["x-llb-ignored"] == "of_no_dialect"
    assert [call.via for call in calls] == ["1.1 llb-other"] * 2


async def test_load_options_hold_on_a_joined_host(
    cluster: tuple[RunningBalancer, RunningJoinedNode],
) -> None:
    llb, node = cluster
    loaded = await llb.http.post("/api/models/chat/load", json={"options": {"slots": 1}})
    assert loaded.status_code == 200, loaded.text
    [report] = node.app.agent.engine_pool.engine_reports()
    assert report.slots == 1
    # A malformed deadline is refused also where nothing has to be loaded.
    headers = bearer(get_credentials(node)[1])
    async with httpx.AsyncClient(base_url=node.url, headers=headers, timeout=30, trust_env=False) as client:
        for deadline in ("x", "nan"):
            refused = await client.post(
                f"/hop/v1/chat/completions?model=chat&load_s={deadline}", json=QUESTION
            )
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "load_s"), refused.text


async def test_why_a_joined_host_does_not_load_is_told(
    cluster: tuple[RunningBalancer, RunningJoinedNode],
) -> None:
    llb, node = cluster
    [file] = node.home.rglob("chat.gguf")
    file.write_bytes(b"no weights" * 100)
    refused = await llb.http.post("/api/models/chat/load", json={"options": {"slots": 1}})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_error")
    assert "file changed since it was verified: chat.gguf" in refused.json()["error"]["message"]
