"""Access between hosts: the routes of a joined node, and where the credentials of nodes are accepted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest
import websockets.asyncio.client
from sanic import Sanic
from websockets.exceptions import InvalidStatus

from llb.api.inference.ollama import OLLAMA_PATHS, PULL_PATH
from llb.api.middleware.route_policy import route_policy_table
from llb.app import create_app
from llb.config import make_config
from llb.wire import PROTOCOL_VERSION
from tests.api.connection.raw import connect, exchange
from tests.conftest import BalancerFactory, JoinedNodeFactory
from tests.harness import RunningBalancer, RunningJoinedNode, wait_until
from tests.joined_node.wire import join_node

QUESTION = {"model": "chat", "messages": [{"role": "user", "content": "Count."}], "max_tokens": 8, "seed": 1}


@pytest.fixture
async def anonymous_client(
    cluster: tuple[RunningBalancer, RunningJoinedNode],
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the joined node without credentials."""
    async with httpx.AsyncClient(base_url=cluster[1].url, timeout=30, trust_env=False) as client:
        yield client


def bearer(credential: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential}"}


def get_credentials(node: RunningJoinedNode) -> tuple[str, str]:
    """The credential of the node at its balancer, and that of the balancer at the node."""
    member = node.app.membership
    assert member is not None
    return member.credential, member.hop_credential


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


async def test_errors_of_messages_have_their_shape_at_both_doors(
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


async def test_limits_of_a_key_hold_at_every_door(
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
        assert llb.app.view.traffic.active_requests(node.id) == 1
    await wait_until(lambda: llb.app.view.traffic.active_requests(node.id) == 0, 5)
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
        await llb.wait_until(lambda: not llb.app.view.nodes[node.id].is_online)
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


async def test_what_a_host_says_of_its_lending_is_for_its_command_line(
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


# --- the node's credential at the balancer --------------------------------------------------------


async def test_a_nodes_credential_opens_its_own_routes_only(llb: RunningBalancer) -> None:
    joined = await join_node(llb, "relic")
    headers = bearer(joined.credential)
    app = next(iter(Sanic._app_registry.values()))
    tried = 0
    for method, path, access in route_policy_table(app):
        if access.node_only or access.public or path.startswith("/ws/") or method == "OPTIONS":
            continue
        answer = await llb.http.request(method, fill_parameters(path), headers=headers)
        assert answer.status_code == 401, (method, path)
        tried += 1
    assert tried > 25
    with pytest.raises(InvalidStatus) as refused:
        async with websockets.asyncio.client.connect(
            f"ws://127.0.0.1:{llb.port}/ws/models", additional_headers=headers, proxy=None
        ):
            pass
    assert refused.value.response.status_code == 401
    assert (await llb.http.post("/api/nodes/leave", headers=headers)).status_code == 204
    assert (await llb.http.post("/api/nodes/leave", headers=headers)).status_code == 401


async def test_nobody_but_a_node_opens_the_link(llb: RunningBalancer) -> None:
    joined = await join_node(llb, "relic")
    wrong = (None, await llb.create_key("admin"), llb.app.local_token, joined.hop_credential, "llbn-no")
    for credential in wrong:
        with pytest.raises(InvalidStatus) as refused:
            async with websockets.asyncio.client.connect(
                f"ws://127.0.0.1:{llb.port}/ws/nodes",
                additional_headers={} if credential is None else bearer(credential),
                proxy=None,
            ):
                pass
        assert refused.value.response.status_code == 401, credential


@pytest.mark.parametrize("origin", ["http://evil.example", "null", None])
@pytest.mark.parametrize("allowed", [(), ("*",)])
async def test_a_page_never_opens_the_link(
    make_llb: BalancerFactory, origin: str | None, allowed: tuple[str, ...]
) -> None:
    llb = await make_llb(allowed_origins=allowed).start()
    joined = await join_node(llb, "relic")
    headers = {**bearer(joined.credential), "Origin": llb.url if origin is None else origin}
    with pytest.raises(InvalidStatus) as refused:
        async with websockets.asyncio.client.connect(
            f"ws://127.0.0.1:{llb.port}/ws/nodes", additional_headers=headers, proxy=None
        ):
            pass
    assert refused.value.response.status_code == 403


async def test_a_request_to_join_is_looked_at_before_it_costs_a_token(llb: RunningBalancer) -> None:
    token = await llb.create_join_token()
    good: dict[str, Any] = {"token": token, "name": "garage", "protocol": PROTOCOL_VERSION, "version": "1"}
    for change in (
        {"name": "two words"},
        {"name": ""},
        {"name": "x" * 64},
        {"token": None},
        {"protocol": "2"},
        {"protocol": 99},
    ):
        answer = await llb.http.post("/api/nodes/join", json={**good, **change})
        assert answer.status_code in (400, 409), change
    assert (await llb.http.post("/api/nodes/join", content=b"{")).status_code in (400, 415)
    assert (await llb.http.post("/api/nodes/join", json=good)).status_code == 201


# --- route policies -------------------------------------------------------------------------------

NODES_ONLY = {("POST", "/api/nodes/leave"), ("GET", "/ws/nodes"), ("GET", "/hop/dial")}
BALANCER_ONLY = {
    ("GET", "/hop/logs"),
    ("POST", "/hop/models/<model_id:str>/discard"),
    ("POST", "/hop/v1/<path:path>"),
    ("POST", "/hop/models/<model_id:str>/load"),
    ("POST", "/hop/models/<model_id:str>/unload"),
    ("POST", "/hop/pulse"),
}
# For requests with a file token of the balancer.
FILES = {(method, "/hop/files/<model_id:str>/<sha256:str>") for method in ("GET", "HEAD")}
OPEN_WHILE_JOINED = {
    ("GET", "/health"),
    ("GET", "/readyz"),
    ("GET", "/hop/proof"),
    ("POST", "/api/nodes/join"),
}


def get_route_policies(app: Sanic[Any, Any]) -> dict[tuple[str, str], Any]:
    app.finalize()
    try:
        return {
            (method, path): access
            for method, path, access in route_policy_table(app)
            if method not in ("OPTIONS",)
        }
    finally:
        Sanic.unregister_app(app)


def test_which_routes_are_for_nodes_and_their_balancer(tmp_path: Path) -> None:
    Sanic.test_mode = True
    balancer = get_route_policies(create_app(make_config(home=tmp_path / "a")))
    assert {route for route, access in balancer.items() if access.node_only} == NODES_ONLY
    joined = get_route_policies(create_app(make_config(home=tmp_path / "b", join="http://attic:8080")))
    assert {route for route, access in joined.items() if access.node_only} == BALANCER_ONLY
    proxied = {route for route, access in joined.items() if access.public} - OPEN_WHILE_JOINED
    # Routes that are proxied with the caller's own key, and redirects to the balancer.
    assert {path for _, path in proxied} == {"/", "/<path:path>", "/v1/<path:path>", *OLLAMA_PATHS, PULL_PATH}
    for table in (balancer, joined):
        assert {route for route, access in table.items() if access.requires_file_token} == FILES
    rest = joined.keys() - BALANCER_ONLY - OPEN_WHILE_JOINED - FILES - proxied
    assert rest == {("GET", "/api/node"), ("POST", "/api/node/leave")}


def fill_parameters(path: str) -> str:
    """`path` with values for its parameters."""
    while "<" in path:
        before, _, rest = path.partition("<")
        path = before + "1" + rest.partition(">")[2]
    return path


# --- large bodies: through, and never held ------------------------------------------------------------

MIB = 1024 * 1024


def large_request(key: str, *, chunked: bool = False) -> bytes:
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % (62 * MIB)
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer %b\r\n%b\r\n\r\n" % (key.encode(), length)
    )


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_large_body_is_not_read_before_the_balancer_has_accepted_its_head(
    cluster: tuple[RunningBalancer, RunningJoinedNode], chunked: bool
) -> None:
    _, node = cluster
    for key in ("sk-nobody", ""):
        async with connect(node.port) as connection:
            await connection.send(large_request(key, chunked=chunked))
            assert (await connection.read_head()).split()[1] == b"401"
    assert node.sanic_app.ctx.connections.body_budget.used_bytes == 0


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_large_body_passes_through(
    cluster: tuple[RunningBalancer, RunningJoinedNode], chunked: bool
) -> None:
    llb, node = cluster
    key = await llb.create_key("inference")
    budget = llb.sanic_app.ctx.connections.body_budget
    sent = b" " * (3 * MIB)
    async with connect(node.port) as connection:
        await connection.send(large_request(key, chunked=chunked))
        await connection.send(b"%x\r\n%b\r\n" % (len(sent), sent) if chunked else sent)
        # The balancer has all of it; the joined host nothing.
        await wait_until(lambda: budget.used_bytes == len(sent))
        assert node.sanic_app.ctx.connections.body_budget.used_bytes == 0
    # A client that leaves is noticed by both.
    await wait_until(lambda: not budget.used_bytes)
    await wait_until(lambda: not node.app.in_flight._count)


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_request_with_a_large_body_is_answered(
    cluster: tuple[RunningBalancer, RunningJoinedNode], anonymous_client: httpx.AsyncClient, chunked: bool
) -> None:
    llb, _ = cluster
    key = bearer(await llb.create_key("inference"))
    body = json.dumps(QUESTION).encode()[:-1] + b" " * MIB + b"}"

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 100_000):
            yield body[start : start + 100_000]

    for _ in range(2):
        answer = await anonymous_client.post(
            "/v1/chat/completions",
            content=pieces() if chunked else body,
            headers={**key, "Content-Type": "application/json"},
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] > 0


async def test_a_client_that_waits_for_permission_gets_it_from_the_balancer(
    cluster: tuple[RunningBalancer, RunningJoinedNode],
) -> None:
    llb, node = cluster
    key = await llb.create_key("inference")
    for credential, status in ((key, b"100"), ("sk-nobody", b"401")):
        async with connect(node.port) as connection:
            head = large_request(credential).removesuffix(b"\r\n")
            await connection.send(head + b"Expect: 100-continue\r\n\r\n")
            assert (await connection.read_head()).split()[1] == status


async def test_a_body_that_breaks_off_or_is_too_large_is_told(
    cluster: tuple[RunningBalancer, RunningJoinedNode],
) -> None:
    llb, node = cluster
    key = await llb.create_key("inference")
    async with connect(node.port) as connection:
        await connection.send(large_request(key, chunked=True) + b'5\r\n{"a":\r\nzz\r\n')
        assert (await connection.read_response())[0] == 400
    async with connect(node.port) as connection:
        await connection.send(large_request(key).replace(b"%d" % (62 * MIB), b"%d" % (65 * MIB)))
        assert (await connection.read_response())[0] == 413
    async with connect(node.port) as connection:
        await connection.send(large_request(key, chunked=True) + b"%x\r\n" % (65 * MIB))
        assert (await connection.read_response())[0] == 413
    await wait_until(lambda: not llb.sanic_app.ctx.connections.body_budget.used_bytes)
