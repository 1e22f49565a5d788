"""Error responses: invalid and oversized bodies, requests without a valid credential, and a full queue."""

from __future__ import annotations

import asyncio
import json
import statistics
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llb.api.connection import http_exchange
from llb.api.request_body import MAX_BODY_BYTES
from tests.conftest import BalancerFactory
from tests.harness import RunningBalancer, write_catalog
from tests.hub import HubStandIn


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (
            rb'{"model": "tiny", "messages": [{"role": "user", "content": [{"image_url": {"url": "http://x/y"}}]}]}',
            "image_url",
        ),
        (
            rb'{"model": "tiny", "messages": [{"role": "user", "content": [{"image\u005furl": {"url": "http://x/y"}}]}]}',
            "image_url",
        ),
        (rb'{"model": "tiny", "n_probs": 21}', "n_probs"),
        (rb'{"model": "tiny", "logprobs": true, "top_logprobs": 100000}', "top_logprobs"),
        (rb'{"model": "tiny", "logprobs": 100000}', "logprobs"),
        (rb'{"model": "tiny", "keep_alive": "-nonsense"}', "keep_alive"),
    ],
)
async def test_invalid_bodies_are_rejected(llb: RunningBalancer, body: bytes, param: str) -> None:
    await llb.pull_model("tiny")
    answer = await llb.http.post(
        "/v1/chat/completions", content=body, headers={"Content-Type": "application/json"}
    )
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_request", param)


async def test_an_oversized_body_is_rejected_before_it_arrives(llb: RunningBalancer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", llb.port)
    lines = (
        "POST /v1/chat/completions HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {llb.app.local_token}",
        "Content-Type: application/json",
        f"Content-Length: {MAX_BODY_BYTES + 1}",
    )
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413 ")
    assert b"x-request-id: " in head.lower()
    error = json.loads(body)["error"]
    assert (error["code"], str(MAX_BODY_BYTES) in error["message"]) == ("payload_too_large", True)


@pytest.mark.parametrize(
    ("path", "key", "content_type", "status"),
    [
        ("/v1/chat/completions", "sk-nobody", "application/json", 401),
        ("/v1/chat/completions", "", "application/json", 401),
        ("/v1/chat/completions", "", "text/plain", 415),
        ("/api/auth/login", "", "application/json", 413),
        ("/api/nodes/join", "", "application/json", 413),
        ("/hop/v1/chat/completions", "llbn-nobody", "application/json", 404),
        ("/nowhere", "", "application/json", 404),
    ],
)
async def test_requests_are_rejected_before_their_body_arrives(
    llb: RunningBalancer, path: str, key: str, content_type: str, status: int
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", llb.port)
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        f"Content-Type: {content_type}",
        f"Content-Length: {MAX_BODY_BYTES - 1}",
        *([f"Authorization: Bearer {key}"] if key else []),
    ]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    writer.close()
    assert int(answer.split()[1]) == status


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_client_that_sends_the_whole_body_first_still_reads_the_error(
    llb: RunningBalancer, chunked: bool
) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY_BYTES // 2**20 + 8):
            yield bytes(2**20)

    headers = {"content-type": "application/json", **llb.http.headers}
    if not chunked:
        headers["content-length"] = str(MAX_BODY_BYTES + 8 * 2**20)
    answer = await llb.http.post("/v1/chat/completions", content=body(), headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "payload_too_large")
    assert answer.headers["connection"] == "close"


async def test_an_endless_body_is_cut_off(llb: RunningBalancer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_exchange, "LINGER_TIMEOUT_S", 0.1)
    _, writer = await asyncio.open_connection("127.0.0.1", llb.port)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n"
    )

    async def send() -> None:
        while True:
            writer.write(bytes(2**16))
            await writer.drain()

    with pytest.raises(ConnectionError):
        await asyncio.wait_for(send(), 30)
    writer.close()


async def test_a_full_queue_rejects_at_once(
    make_llb: BalancerFactory, hub: HubStandIn, chat_gguf: Path, tmp_path: Path
) -> None:
    hub.add_repo("test/chat", {"chat.gguf": chat_gguf})
    catalog = write_catalog(tmp_path / "list.json", {"id": "chat", "size_bytes": chat_gguf.stat().st_size})
    llb = await make_llb(catalog=catalog, parallel=1, max_queue=2).start()
    await llb.wait_until_online()
    await llb.pull_model("chat")
    body = {"model": "chat", "messages": [{"role": "user", "content": "Count."}], "max_tokens": 200}
    answers = await asyncio.gather(
        *(
            llb.http.post("/v1/chat/completions", json={**body, "stream": bool(number % 2)})
            for number in range(40)
        )
    )
    refused = [answer for answer in answers if answer.status_code == 503]
    assert len(refused) >= 30
    assert {answer.json()["error"]["code"] for answer in refused} == {"queue_full"}
    assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in refused)
    rows = (await llb.http.get("/api/requests", params={"limit": 100})).json()["requests"]
    durations_ms = [row["duration_ms"] for row in rows if row["error_code"] == "queue_full"]
    assert len(durations_ms) == len(refused)
    # Before the first answer was there, which would have left a place in the queue.
    assert statistics.median(durations_ms) < min(row["duration_ms"] for row in rows if row["status"] == 200)
    assert [(queue.queued, queue.nodes[0].busy) for queue in llb.app.gateway.admission.snapshot()] == [(0, 0)]
