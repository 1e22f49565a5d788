"""Authorisation of every route with every kind of credential, over a real socket, against the route policies.

docs/security.md contains the table of all policies, so that a review shows every change of it.
"""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from sanic import Request, Sanic
from sanic.response import HTTPResponse

from llb.api.incoming_request import IncomingRequest
from llb.api.middleware.route_policy import RoutePolicy, route_policy_table
from llb.app import create_app, create_ollama_app
from llb.config import make_config
from llb.security import tokens
from llb.store.tables import keys
from llb.wire import Scope
from tests import harness
from tests.conftest import BalancerFactory
from tests.harness import PASSWORD, RunningBalancer

# Status of a request that passes the auth middleware. No handler runs, so requests have no effect.
ADMITTED = 299
NODE = "llbn-of-a-node"
ALL = frozenset(Scope)
READING = frozenset({Scope.INFERENCE, Scope.MODELS_READ})
DOCUMENT = Path(__file__).parents[2] / "docs" / "security.md"


@dataclass(frozen=True)
class Caller:
    """Client with a credential."""

    name: str
    headers: dict[str, str] = field(default_factory=dict)
    # None without a valid credential.
    scopes: frozenset[Scope] | None = None
    # Whether it sends a credential, valid or not.
    has_credential: bool = True
    is_node: bool = False
    # Whether it is a web page of this origin.
    is_page: bool = False

    @property
    def sends_key(self) -> bool:
        return bool({"Authorization", "X-API-Key"} & self.headers.keys())

    def expected_status(self, policy: RoutePolicy) -> int:
        if policy.public or policy.requires_file_token:
            return ADMITTED
        if policy.node_only:
            return ADMITTED if self.is_node else 403 if self.is_page else 401
        if self.scopes is None:
            anonymous = policy.or_local_program and not self.has_credential and not self.is_page
            return ADMITTED if anonymous else 401
        return ADMITTED if policy.scope is None or policy.scope in self.scopes else 403


@pytest.fixture
async def llb(make_llb: BalancerFactory, monkeypatch: pytest.MonkeyPatch) -> RunningBalancer:
    """Balancer whose handlers do not run, unless a request has `X-Really`."""

    def create_app_without_handlers(config: Any) -> Sanic[Any, Any]:
        app = create_app(config)

        async def stop(request: Request) -> HTTPResponse | None:
            return None if request.headers.get("x-really") else HTTPResponse(status=ADMITTED)

        async def stop_front(app: Sanic[Any, Any]) -> None:
            for route in app.ctx.front.routes:

                async def stop_in_front(_request: IncomingRequest) -> HTTPResponse:
                    return HTTPResponse(status=ADMITTED)

                # With the marks of the handler, such as its policy.
                route.handler = functools.wraps(route.handler)(stop_in_front)

        app.register_middleware(stop, "request", priority=1)
        app.register_listener(stop_front, "before_server_start")
        return app

    monkeypatch.setattr(harness, "create_app", create_app_without_handlers)
    llb = await make_llb().start()
    llb.http.headers["x-really"] = "yes"
    llb.app.accounts.authenticator._node_id_of = lambda credential: "garage" if credential == NODE else None
    return llb


async def callers(llb: RunningBalancer) -> list[Caller]:
    async def key(scope: Scope) -> str:
        answer = await llb.http.post("/api/keys", json={"name": "k", "scopes": [scope]})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["key"])

    async def session(name: str) -> str:
        answer = await llb.http.post(
            "/api/auth/login", json={"username": name, "password": PASSWORD}, headers={"Authorization": ""}
        )
        # Signing in would replace the session of this client.
        llb.http.cookies.clear()
        return f"llb_session={answer.cookies['llb_session']}"

    def bearer(token: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {token}"}

    await llb.http.post("/api/users", json={"username": "ann", "password": PASSWORD, "role": "user"})
    admin, ann = await session("admin"), await session("ann")
    revoked = await llb.http.post("/api/keys", json={"name": "gone"})
    await llb.http.delete(f"/api/keys/{revoked.json()['id']}")
    expired = tokens.new_api_key()
    record = keys.ApiKey(
        id=tokens.new_random_id(),
        name="old",
        hash=expired.hash,
        prefix=expired.prefix,
        scopes=ALL,
        owner_id=None,
        expires_at=2.0,
        created_at=1.0,
    )
    async with llb.app.db.write() as tx:
        await keys.add(tx, record)
    found = [
        Caller("nobody", has_credential=False),
        Caller(
            "a page without a session", {"Sec-Fetch-Site": "same-origin"}, has_credential=False, is_page=True
        ),
        Caller("an unknown key", bearer("sk-unknown")),
        Caller("no key at all as Bearer", bearer("x")),
        Caller("an unknown key beside a good cookie", {**bearer("sk-unknown"), "Cookie": admin}),
        Caller("two unknown keys", {**bearer("sk-a"), "X-API-Key": "sk-b"}),
        Caller("two valid keys", {**bearer(await key(Scope.ADMIN)), "X-API-Key": await key(Scope.ADMIN)}),
        Caller(
            "a key beside a placeholder",
            {**bearer("none"), "X-API-Key": await key(Scope.INFERENCE), "Cookie": admin},
            frozenset({Scope.INFERENCE}),
        ),
        Caller("a revoked key", bearer(revoked.json()["key"])),
        Caller("an expired key", bearer(expired.key)),
        Caller("the local token", bearer(llb.app.local_token), ALL),
        Caller("an administrator's session", {"Cookie": admin}, ALL),
        Caller("somebody's session", {"Cookie": ann}, READING),
        Caller("an ended session", {"Cookie": "llb_session=ended"}, has_credential=False),
        Caller("a node", bearer(NODE), is_node=True),
        Caller("a node that is none", bearer("llbn-nobody")),
    ]
    for scope in Scope:
        token = await key(scope)
        scopes = ALL if scope is Scope.ADMIN else frozenset({scope})
        found += [
            Caller(f"a key for {scope.value}", bearer(token), scopes),
            Caller(f"the same as X-API-Key ({scope.value})", {"X-API-Key": token}, scopes),
        ]
    return found


def example_path(path: str) -> str:
    return re.sub(r"<\w+(:\w+)?>", "1", path)


async def test_every_route_with_every_credential(llb: RunningBalancer) -> None:
    mismatches: list[str] = []
    count = 0
    clients = await callers(llb)
    async with httpx.AsyncClient(base_url=llb.url, trust_env=False, timeout=30) as client:
        for method, path, policy in route_policy_table(llb.sanic_app):
            headers = {} if method in ("GET", "HEAD", "OPTIONS") else {"Content-Type": policy.media_types[0]}
            if path.startswith("/ws/"):
                headers |= {
                    "Connection": "Upgrade",
                    "Upgrade": "websocket",
                    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
                    "Sec-WebSocket-Version": "13",
                }
            for caller in clients:
                answer = await client.request(
                    method, example_path(path), headers={**headers, **caller.headers}
                )
                count += 1
                expected = caller.expected_status(policy)
                if path.startswith("/models") and caller.sends_key:
                    # For programs whose base URL lacks /v1.
                    expected = caller.expected_status(RoutePolicy(scope=Scope.INFERENCE))
                if answer.status_code != expected:
                    mismatches.append(f"{method} {path}: {caller.name}: {answer.status_code}, not {expected}")
                elif answer.status_code in (401, 403) and method != "HEAD":
                    assert "error" in answer.json(), (method, path)
    assert mismatches == []
    assert count > 1000


@pytest.mark.parametrize(
    "foreign",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        # Another port of the same host.
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=lambda foreign: " ".join(foreign.values()),
)
async def test_a_cookie_never_counts_for_another_page(llb: RunningBalancer, foreign: dict[str, str]) -> None:
    [admin] = [caller for caller in await callers(llb) if caller.name == "an administrator's session"]
    async with httpx.AsyncClient(base_url=llb.url, trust_env=False, timeout=30) as client:
        for method, path, policy in route_policy_table(llb.sanic_app):
            if policy.public and method in ("GET", "HEAD"):
                continue
            headers = {"Content-Type": policy.media_types[0], **admin.headers, **foreign}
            if path.startswith("/ws/"):
                headers |= {"Connection": "Upgrade", "Upgrade": "websocket"}
            answer = await client.request(method, example_path(path), headers=headers)
            if method == "OPTIONS" or policy.requires_file_token:
                continue
            assert answer.status_code in (401, 403), (method, path, answer.status_code)


# --- the table in the documentation ------------------------------------------------------------------


def rows(app: Sanic[Any, Any]) -> Iterator[str]:
    methods_by_rule: dict[tuple[str, str], list[str]] = {}
    for method, path, policy in route_policy_table(app):
        if method not in ("OPTIONS", "HEAD"):
            methods_by_rule.setdefault((path, policy.allowed_callers), []).append(method)
    for (path, allowed), methods in sorted(methods_by_rule.items()):
        yield f"| `{', '.join(sorted(methods))}` | `{path}` | {allowed} |"


def test_the_document_shows_the_table(tmp_path: Path) -> None:
    Sanic.test_mode = True
    config = make_config(home=tmp_path)
    apps = {
        "a balancer": create_app(config),
        "the port without keys": None,
        "a host that has joined": create_app(make_config(home=tmp_path, join="http://127.0.0.1:9")),
    }
    balancer = apps["a balancer"]
    assert balancer is not None
    apps["the port without keys"] = create_ollama_app(balancer.ctx.llb)
    document = DOCUMENT.read_text(encoding="utf-8")
    for name, app in apps.items():
        assert app is not None
        app.finalize()
        table = "\n".join(rows(app))
        Sanic.unregister_app(app)
        assert table in document, f"docs/security.md lacks the table of {name}:\n{table}"


# --- the audit trail ---------------------------------------------------------------------------------


async def test_a_denied_request_is_recorded_once(make_llb: BalancerFactory) -> None:
    llb = await make_llb().start()
    key = {"Authorization": f"Bearer {await llb.create_key('inference')}"}
    for _ in range(3):
        assert (await llb.http.get("/api/users", headers=key)).status_code == 403
    # Denied reads are not recorded.
    assert (await llb.http.get("/api/models", headers=key)).status_code == 403
    assert (await llb.http.delete("/api/models/tiny", headers=key)).status_code == 403
    assert (
        await llb.http.get("/api/users", headers={"Authorization": "Bearer sk-nobody"})
    ).status_code == 401

    async def denied_requests() -> list[tuple[str, str, str, str]]:
        entries = (await llb.http.get("/api/audit")).json()["entries"]
        return [
            (entry["actor"], entry["target"], entry["address"], entry["result"])
            for entry in reversed(entries)
            if entry["action"] == "refused"
        ]

    async with asyncio.timeout(30):
        while len(await denied_requests()) < 2:
            await asyncio.sleep(0.01)
    assert await denied_requests() == [
        ("key test", "GET /api/users", "127.0.0.1", "insufficient_permissions"),
        ("key test", "DELETE /api/models/tiny", "127.0.0.1", "insufficient_permissions"),
    ]
