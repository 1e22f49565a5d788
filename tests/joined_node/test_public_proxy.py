"""Access to a joined node: its /v1 and its other routes."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import ollama
import pytest

from tests.api.connection.raw import exchange
from tests.conftest import BalancerFactory, JoinedNodeFactory
from tests.harness import RunningBalancer, RunningJoinedNode, wait_until
from tests.joined_node.credentials import QUESTION, bearer, get_credentials

# --- /v1 of a joined host -------------------------------------------------------------------------


async def test_any_hosts_address_answers_for_the_cluster(
    cluster: tuple[RunningBalancer, RunningJoinedNode], anonymous_client: httpx.AsyncClient
) -> None:
    llb, _ = cluster
    key = bearer(await llb.create_key("inference"))
    listed = await anonymous_client.get("/v1/models", headers=key)
    assert [model["id"] for model in listed.json()["data"]] == ["chat"]
    answer = await anonymous_client.post("/v1/chat/completions", json=QUESTION, headers=key)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] > 0
    assert answer.headers["x-llb-node"] == "garage"
    assert answer.headers["content-type"].startswith("application/json")
    # The request id of the client is the one in the balancer's history.
    requests = (await llb.http.get("/api/requests")).json()["requests"]
    assert [each["request_id"] for each in requests] == [answer.headers["x-request-id"]]


async def test_a_joined_host_opens_no_port_without_keys(
    make_llb: BalancerFactory, make_node: JoinedNodeFactory
) -> None:
    """The balancer would demand a key for the proxied requests."""
    llb = await make_llb(ollama_port=0).start()
    node = await make_node(llb, "garage", ollama_port=0).start()
    assert llb.ollama_port is not None
    assert node.ollama_port is None


async def test_ollamas_clients_are_answered_for_the_cluster(
    cluster: tuple[RunningBalancer, RunningJoinedNode],
) -> None:
    llb, node = cluster
    key = bearer(await llb.create_key("inference"))
    async with ollama.AsyncClient(node.url, headers=key, trust_env=False) as client:
        assert [model.model for model in (await client.list()).models] == ["chat:latest"]
        stream = await client.chat("chat", QUESTION["messages"], options={"num_predict": 4}, stream=True)
        assert [piece.done for piece in [piece async for piece in stream]][-1]
        with pytest.raises(ollama.ResponseError) as refused:
            await client.show("nothing")
        assert refused.value.status_code == 404
    async with ollama.AsyncClient(node.url, trust_env=False) as nobody:
        with pytest.raises(ollama.ResponseError) as refused:
            await nobody.list()
        assert refused.value.status_code == 401


async def test_a_stream_comes_through_piece_by_piece(
    cluster: tuple[RunningBalancer, RunningJoinedNode], anonymous_client: httpx.AsyncClient
) -> None:
    llb, _ = cluster
    key = {"X-API-Key": await llb.create_key("inference")}
    pieces = []
    async with anonymous_client.stream(
        "POST", "/v1/chat/completions", json={**QUESTION, "stream": True}, headers=key
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                pieces.append(line)
    assert pieces[-1] == "data: [DONE]"
    assert len(pieces) > 3


@pytest.mark.parametrize(
    ("path", "body", "counts"),
    [
        ("/v1/responses", {"input": "Count.", "max_output_tokens": 4}, True),
        ("/v1/messages", {"messages": QUESTION["messages"], "max_tokens": 4}, True),
        ("/v1/messages/count_tokens", {"messages": QUESTION["messages"]}, False),
    ],
)
async def test_every_dialect_comes_through(
    cluster: tuple[RunningBalancer, RunningJoinedNode],
    anonymous_client: httpx.AsyncClient,
    path: str,
    body: dict[str, Any],
    counts: bool,
) -> None:
    llb, _ = cluster
    key = {"X-API-Key": await llb.create_key("inference"), "anthropic-version": "2023-06-01"}
    answer = await anonymous_client.post(path, json={"model": "Test/Chat", **body}, headers=key)
    assert answer.status_code == 200, answer.text
    assert answer.json().get("model", "chat") == "chat"
    assert answer.headers["x-llb-node"] == "garage"
    if path.startswith("/v1/messages"):
        assert answer.headers["request-id"] == answer.headers["x-request-id"]
    if counts:
        async with anonymous_client.stream(
            "POST", path, json={"model": "chat", "stream": True, **body}, headers=key
        ) as streamed:
            lines = [line async for line in streamed.aiter_lines() if line.startswith("event: ")]
        assert lines[-1] in ("event: response.incomplete", "event: message_stop")
    requests = (await llb.http.get("/api/requests")).json()["requests"]
    assert {(each["endpoint"], each["status"]) for each in requests} == {(path, 200)}
    assert all((each["completion_tokens"] == 4) is counts for each in requests)


async def test_errors_of_messages_have_their_shape_on_joined_hosts_too(
    cluster: tuple[RunningBalancer, RunningJoinedNode], anonymous_client: httpx.AsyncClient
) -> None:
    llb, _ = cluster
    body = {"model": "unknown", "messages": QUESTION["messages"], "max_tokens": 4}
    key = {"X-API-Key": await llb.create_key("inference")}
    for headers, kind in ((key, "not_found_error"), ({}, "authentication_error")):
        answer = await anonymous_client.post("/v1/messages", json=body, headers=headers)
        assert answer.json()["error"]["type"] == kind
        assert answer.json()["request_id"] == answer.headers["request-id"] == answer.headers["x-request-id"]
    await llb.stop()
    away = await anonymous_client.post("/v1/messages", json=body, headers=key)
    assert (away.status_code, away.json()["type"], away.json()["error"]["type"]) == (
        503,
        "error",
        "api_error",
    )


async def test_limits_of_a_key_hold_on_every_host(
    cluster: tuple[RunningBalancer, RunningJoinedNode], anonymous_client: httpx.AsyncClient
) -> None:
    llb, _ = cluster
    made = await llb.http.post("/api/keys", json={"name": "k", "limits": {"requests_per_minute": 2}})
    key = bearer(made.json()["key"])
    there = await llb.http.post("/v1/chat/completions", json=QUESTION, headers=key)
    assert there.headers["x-ratelimit-remaining-requests"] == "1"
    here = await anonymous_client.post("/v1/chat/completions", json=QUESTION, headers=key)
    assert (here.status_code, here.headers["x-ratelimit-remaining-requests"]) == (200, "0")
    refused = await anonymous_client.post("/v1/chat/completions", json=QUESTION, headers=key)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.headers["x-ratelimit-limit-requests"] == "2"


async def test_errors_of_the_balancer_come_through_as_they_are(
    cluster: tuple[RunningBalancer, RunningJoinedNode], anonymous_client: httpx.AsyncClient
) -> None:
    llb, _ = cluster
    key = bearer(await llb.create_key("inference"))
    for body, headers in (
        ({**QUESTION, "model": "unknown"}, key),
        (QUESTION, {}),
        (QUESTION, bearer("sk-no")),
        ({"model": "chat", "messages": "none"}, key),
    ):
        here = await anonymous_client.post("/v1/chat/completions", json=body, headers=headers)
        there = await anonymous_client.post(f"{llb.url}/v1/chat/completions", json=body, headers=headers)
        assert here.status_code == there.status_code >= 400
        assert here.json() == there.json()
        assert here.headers.get("www-authenticate") == there.headers.get("www-authenticate")
    assert (await anonymous_client.get("/v1/nothing/here?a=b%20c&d=é", headers=key)).status_code == 404
    assert (await anonymous_client.get("/v1/models/%2e%2e%2fü", headers=key)).status_code == 404


async def test_a_caller_of_a_joined_host_is_never_local_at_the_balancer(
    cluster: tuple[RunningBalancer, RunningJoinedNode], anonymous_client: httpx.AsyncClient
) -> None:
    llb, node = cluster
    for token in (llb.app.local_token, node.app.local_token):
        answer = await anonymous_client.get("/v1/models", headers=bearer(token))
        assert answer.status_code == 401, token
    spoofed = {**bearer(llb.app.local_token), "x-llb-hop": "", "X-LLB-Node": "x"}
    assert (await anonymous_client.get("/v1/models", headers=spoofed)).status_code == 401


async def test_a_client_that_leaves_frees_its_slot_through_both_hops(
    cluster: tuple[RunningBalancer, RunningJoinedNode],
) -> None:
    llb, node = cluster
    key = bearer(await llb.create_key("inference"))
    long = {**QUESTION, "stream": True, "max_tokens": 400, "ignore_eos": True}
    async with (
        httpx.AsyncClient(base_url=node.url, timeout=30, trust_env=False) as client,
        client.stream("POST", "/v1/chat/completions", json=long, headers=key) as answer,
    ):
        await anext(answer.aiter_lines())
        assert llb.app.cluster.view.traffic.active_requests(node.id) == 1
    await wait_until(lambda: llb.app.cluster.view.traffic.active_requests(node.id) == 0, 5)
    await wait_until(lambda: node.app.agent.engine_pool._engines["chat"].process.active_requests == 0, 5)


async def test_a_balancer_that_is_down_is_one_sentence(
    cluster: tuple[RunningBalancer, RunningJoinedNode], anonymous_client: httpx.AsyncClient
) -> None:
    llb, _ = cluster
    key = bearer(await llb.create_key("inference"))
    await llb.stop()
    answer = await anonymous_client.post("/v1/chat/completions", json=QUESTION, headers=key)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "no_node_available"
    assert "Retry-After" in answer.headers
    assert llb.url not in answer.text


async def test_probes_and_base_urls_of_a_joined_host(
    cluster: tuple[RunningBalancer, RunningJoinedNode], anonymous_client: httpx.AsyncClient
) -> None:
    llb, node = cluster
    probe = await exchange(node.port, b"GET /health HTTP/1.0\r\n\r\n")
    assert probe.startswith(b"HTTP/1.1 200 ")
    key = bearer(await llb.create_key("inference"))
    for path in ("/v1/v1/models", "//v1/models/", "/models"):
        answer = await anonymous_client.get(f"{node.url}{path}", headers=key)
        assert (answer.status_code, answer.json()["object"]) == (200, "list"), path


async def test_an_answer_that_breaks_off_behind_is_cut_here_too(
    cluster: tuple[RunningBalancer, RunningJoinedNode],
) -> None:
    llb, node = cluster
    key = bearer(await llb.create_key("inference"))
    long = {**QUESTION, "stream": True, "max_tokens": 400, "ignore_eos": True}
    async with (
        httpx.AsyncClient(base_url=node.url, timeout=30, trust_env=False) as client,
        client.stream("POST", "/v1/chat/completions", json=long, headers=key) as answer,
    ):
        lines = answer.aiter_lines()
        await anext(lines)
        assert llb._server is not None
        for connection in llb._server._main_listener.connections:
            connection.abort()
        with pytest.raises(httpx.RemoteProtocolError):
            async for _ in lines:
                pass


async def test_a_host_that_stops_lets_its_answers_end_and_gets_no_more(
    cluster: tuple[RunningBalancer, RunningJoinedNode],
) -> None:
    llb, node = cluster
    key = bearer(await llb.create_key("inference"))
    long = {**QUESTION, "stream": True, "max_tokens": 400, "ignore_eos": True}
    async with (
        httpx.AsyncClient(timeout=30, trust_env=False) as client,
        client.stream("POST", f"{llb.url}/v1/chat/completions", json=long, headers=key) as answer,
    ):
        lines = answer.aiter_lines()
        await anext(lines)
        stopping = asyncio.ensure_future(node.stop(drain_timeout_s=20))
        await llb.wait_until(lambda: not llb.app.cluster.view.nodes[node.id].is_online)
        refused = await client.post(f"{llb.url}/v1/chat/completions", json=QUESTION, headers=key)
        assert refused.status_code == 503
        rest = [line async for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        await stopping


# --- other routes of a joined node ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("HEAD", "/"),
        ("GET", "/models?q=a%20b"),
        ("GET", "/assets/x/main.js"),
        ("GET", "/api/models"),
        ("POST", "/api/auth/login"),
        ("DELETE", "/api/nodes/x"),
        ("GET", "/metrics"),
        ("GET", "/v1"),
        ("GET", "/@evil.example//%0d%0aX: y"),
    ],
)
async def test_the_page_and_the_api_lead_to_the_balancer(
    cluster: tuple[RunningBalancer, RunningJoinedNode],
    anonymous_client: httpx.AsyncClient,
    method: str,
    path: str,
) -> None:
    llb, _ = cluster
    answer = await anonymous_client.request(method, path.replace(" ", "%20"))
    assert answer.status_code == 307
    assert answer.headers["location"] == llb.url + path.replace(" ", "%20")


async def test_nobody_but_the_balancer_may_hop(
    cluster: tuple[RunningBalancer, RunningJoinedNode], anonymous_client: httpx.AsyncClient
) -> None:
    llb, node = cluster
    own, balancers = get_credentials(node)
    key = await llb.create_key("admin")
    for credential in (None, own, key, node.app.local_token, llb.app.local_token, "llbn-no"):
        headers = {} if credential is None else bearer(credential)
        for method, path in (
            ("POST", "/hop/v1/chat/completions?model=chat"),
            ("POST", "/hop/models/chat/unload"),
        ):
            answer = await anonymous_client.request(method, path, headers=headers)
            assert answer.status_code == 401, (path, credential)
    answer = await anonymous_client.post(
        "/hop/v1/chat/completions?model=chat", json=QUESTION, headers=bearer(balancers)
    )
    assert answer.status_code == 200
    # A page in a browser is rejected with any credential.
    page = {**bearer(balancers), "Origin": node.url}
    answer = await anonymous_client.post("/hop/models/chat/unload", headers=page)
    assert answer.status_code == 403


async def test_the_balancers_credential_opens_nothing_but_hops(
    cluster: tuple[RunningBalancer, RunningJoinedNode], anonymous_client: httpx.AsyncClient
) -> None:
    llb, node = cluster
    _, balancers = get_credentials(node)
    assert (await anonymous_client.post("/api/node/leave", headers=bearer(balancers))).status_code == 401
    assert (await anonymous_client.get("/v1/models", headers=bearer(balancers))).status_code == 401
    assert (await llb.http.get("/api/nodes", headers=bearer(balancers))).status_code == 401


async def test_what_a_host_says_of_its_membership_is_for_its_command_line(
    cluster: tuple[RunningBalancer, RunningJoinedNode], anonymous_client: httpx.AsyncClient
) -> None:
    llb, node = cluster
    assert (await anonymous_client.get("/api/node")).status_code == 401
    shown = (await node.http.get("/api/node")).json()
    assert (shown["balancer_url"], shown["name"], shown["problem"]) == (llb.url, "garage", None)


async def test_only_the_command_line_of_the_host_may_have_it_leave(
    cluster: tuple[RunningBalancer, RunningJoinedNode], anonymous_client: httpx.AsyncClient
) -> None:
    llb, node = cluster
    own, _ = get_credentials(node)
    for credential in (own, llb.app.local_token, await llb.create_key("admin")):
        assert (await anonymous_client.post("/api/node/leave", headers=bearer(credential))).status_code == 401
    assert (await anonymous_client.post("/api/node/leave")).status_code == 401
    assert node.app.membership is not None


async def test_who_answers_at_an_address_can_be_proved_without_a_secret(
    cluster: tuple[RunningBalancer, RunningJoinedNode], anonymous_client: httpx.AsyncClient
) -> None:
    assert len((await anonymous_client.get("/hop/proof?nonce=a")).json()["proof"]) == 64
    for query in ("", "?nonce=", f"?nonce={'x' * 129}"):
        assert (await anonymous_client.get(f"/hop/proof{query}")).status_code == 400
