"""Where the credentials of nodes are accepted, and which routes are theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import websockets.asyncio.client
from sanic import Sanic
from websockets.exceptions import InvalidStatus

from llb.api.inference.ollama import OLLAMA_PATHS, PULL_PATH
from llb.api.middleware.route_policy import route_policy_table
from llb.app import create_app
from llb.config import make_config
from llb.wire import PROTOCOL_VERSION
from tests.conftest import BalancerFactory
from tests.harness import RunningBalancer
from tests.joined_node.credentials import bearer
from tests.joined_node.wire import join_node


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
