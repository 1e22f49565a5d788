"""Client information: the Host header, and forwarding headers of trusted proxies."""

from __future__ import annotations

from pathlib import Path

import pytest

from llb.wire import Scope
from tests.api.http_server import PASSWORD, ApiServer, run_api_server


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:1",
        "localhost.",
        "a.localhost",
        "127.0.0.1",
        "127.9.9.9:80",
        "[::1]:8080",
        "192.168.1.5",
        "[fe80::1]",
    ],
)
async def test_known_names_and_addresses_may_be_called(server: ApiServer, host: str) -> None:
    assert (await server.call("GET", "/open", host=host)).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "2130706433", "127.1"]
)
async def test_other_names_are_refused_on_every_route(server: ApiServer, host: str) -> None:
    key = await server.create_key(Scope.ADMIN)
    for path in ("/open", "/any", "/api/auth/me", "/nothing"):
        response = await server.call("GET", path, key, host=host)
        assert (response.status, response.code) == (421, "unknown_host")
    assert await server.websocket_status(key, host=host) == 421
    assert server.handled_requests == []


@pytest.mark.parametrize("host", ["", "a b", "[::1", "[zz]", "host:99999999", "http://localhost"])
async def test_a_malformed_host_is_a_bad_request(server: ApiServer, host: str) -> None:
    assert (await server.call("GET", "/open", host=host)).status == 400


async def test_no_host_or_two_are_a_bad_request(server: ApiServer) -> None:
    assert (await server.call("GET", "/open", host=None)).status == 400
    assert (await server.call("GET", "/open", ("Host", "localhost"))).status == 400


async def test_an_allowed_host_may_be_called(tmp_path: Path) -> None:
    async with run_api_server(
        tmp_path, allowed_hosts=("LLM.example",), advertise="http://other.example:80"
    ) as server:
        assert (await server.call("GET", "/open", host="llm.example:8080")).status == 200
        assert (await server.call("GET", "/open", host="other.example")).status == 200
        assert (await server.call("GET", "/open", host="x.llm.example")).status == 421


async def test_forwarding_headers_count_only_from_a_trusted_proxy(tmp_path: Path, server: ApiServer) -> None:
    forwarded = (
        ("X-Forwarded-For", "203.0.113.9, 198.51.100.7, 10.0.0.2"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "llm.example"),
    )
    await server.call("GET", "/open", *forwarded)
    client = server.handled_requests[-1].ctx.client
    assert (client.address, client.scheme, client.origin[1], client.on_loopback) == (
        "127.0.0.1",
        "http",
        "localhost",
        False,
    )
    assert client.proxy_header == "x-forwarded-for"

    proxied = run_api_server(
        tmp_path / "proxied",
        admin_password=PASSWORD,
        trusted_proxies=("127.0.0.1", "10.0.0.0/8"),
        allowed_hosts=("llm.example",),
    )
    async with proxied as behind:
        await behind.call("GET", "/open", *forwarded)
        client = behind.handled_requests[-1].ctx.client
        # The client may have invented the addresses before this one.
        assert client.address == "198.51.100.7"
        assert client.origin == ("https", "llm.example", 443)
        assert not client.on_loopback
        login = await behind.call(
            "POST",
            "/api/auth/login",
            *forwarded,
            ("Origin", "https://llm.example"),
            json_body={"username": "admin", "password": PASSWORD},
        )
        assert login.status == 200
        assert "Secure" in str(login.header("set-cookie"))
        evil = await behind.call("GET", "/open", ("X-Forwarded-Host", "evil.example"))
        assert evil.status == 421
        # A proxy that adds no header must not make its clients look local.
        assert (await behind.call("GET", "/metrics")).status == 401
        # The local token proves more than an address.
        local = ("Authorization", f"Bearer {behind.local_token}")
        assert (await behind.call("GET", "/any", local)).status == 200


async def test_the_clients_of_an_incomplete_proxy_do_not_choose_their_address(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A proxy that sets X-Forwarded-Proto alone passes on the X-Forwarded-For that a client invents."""
    proto, invented = ("X-Forwarded-Proto", "https"), ("X-Forwarded-For", "9.9.9.1")
    proxied = {"admin_password": PASSWORD, "trusted_proxies": ("127.0.0.1",)}
    async with run_api_server(tmp_path, **proxied) as server:

        async def address_of(*headers: tuple[str, str]) -> str:
            await server.call("GET", "/open", *headers)
            return str(server.handled_requests[-1].ctx.client.address)

        # A proxy's own health checks show nothing.
        assert await address_of() == "127.0.0.1"
        assert await address_of(proto, ("X-Forwarded-For", "203.0.113.9")) == "203.0.113.9"
        # The first honest client shows it.
        for shown in (proto, ("X-Forwarded-Host", "localhost")):
            assert await address_of(shown) == "127.0.0.1"
            for number in range(10):
                assert await address_of(proto, ("X-Forwarded-For", f"9.9.9.{number}")) == "127.0.0.1"
        statuses = []
        for number in range(8):
            body = {"username": f"user{number}", "password": "wrong"}
            forged = ("X-Forwarded-For", f"9.9.9.{number}")
            login = await server.call("POST", "/api/auth/login", proto, forged, json_body=body)
            statuses.append(login.status)
        assert statuses == [401] * 5 + [429] * 3
        assert caplog.text.count("sets no X-Forwarded-For") == 1
        for text in ("", "unknown", "203.0.113.9:80", "_hidden"):
            assert await address_of(proto, ("X-Forwarded-For", text)) == "127.0.0.1"
    # What showed itself is forgotten with the process: the proxy may have been mended.
    async with run_api_server(tmp_path, **proxied) as server:
        assert await address_of(proto, invented) == "9.9.9.1"


PROXY_HEADERS = [
    "CF-Connecting-IP",
    "CF-Ray",
    "Client-IP",
    "CDN-Loop",
    "Fastly-Client-IP",
    "Fly-Client-IP",
    "Front-End-Https",
    "Ngrok-Auth-User-Email",
    "Proxy-Connection",
    "Remote-User",
    "Tailscale-User-Login",
    "True-Client-IP",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "X-Envoy-External-Address",
    "X-Forwarded",
    "X-Forwarded-Port",
    "X-Original-URI",
    "X-ProxyUser-Ip",
    "X-Real-IP",
    "X-Request-Start",
    "X-Scheme",
    "X-Varnish",
    "X-Vercel-Forwarded-For",
]


async def test_the_header_of_a_proxy_or_an_older_http_makes_nobody_local(server: ApiServer) -> None:
    for name in PROXY_HEADERS:
        assert (await server.call("GET", "/metrics", (name, "x"))).status == 401, name
    for name in ("X-Request-Id", "traceparent", "X-Session-Id", "X-Stainless-Lang", "Cache-Control", "TE"):
        assert (await server.call("GET", "/metrics", (name, "x"))).status == 200, name
