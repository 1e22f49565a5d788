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
