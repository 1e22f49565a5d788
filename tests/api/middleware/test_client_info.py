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
    # A restart forgets detected proxies: they may have been fixed.
    async with run_api_server(tmp_path, **proxied) as server:
        assert await address_of(proto, invented) == "9.9.9.1"


PROXIED = {"admin_password": PASSWORD, "trusted_proxies": ("127.0.0.1",)}
FORWARDED_FOR = ("X-Forwarded-For", "203.0.113.9")


async def test_scheme_and_port_from_a_trusted_proxy(tmp_path: Path, server: ApiServer) -> None:
    allowed = ("llm.example", "ports.example:9443")
    async with run_api_server(tmp_path / "proxied", **PROXIED, allowed_hosts=allowed) as behind:

        async def origin_of(host: str, **headers: str) -> tuple[str, str, int]:
            sent = [(f"X-Forwarded-{name}", value) for name, value in headers.items()]
            response = await behind.call("GET", "/open", FORWARDED_FOR, *sent, host=host)
            assert response.status == 200, response.body
            origin: tuple[str, str, int] = behind.handled_requests[-1].ctx.client.origin
            return origin

        assert await origin_of("llm.example", Proto="wss") == ("https", "llm.example", 443)
        assert await origin_of("llm.example", Proto="ws") == ("http", "llm.example", 80)
        assert await origin_of("llm.example", Proto="") == ("http", "llm.example", 80)
        assert await origin_of("llm.example", Proto="https", Port="8443") == ("https", "llm.example", 8443)
        # The port that the browser has sent counts more than that at which the proxy listens.
        assert await origin_of("llm.example:9000", Proto="https", Port="8443") == (
            "https",
            "llm.example",
            9000,
        )
        assert await origin_of("llm.example", Host="llm.example:1", Port="2") == ("http", "llm.example", 1)
        assert await origin_of("ports.example", Proto="https") == ("https", "ports.example", 9443)
        assert await origin_of("ports.example", Proto="https", Port="443") == ("https", "ports.example", 443)
        for name, value in (
            ("Proto", "ftp"),
            ("Proto", "https, x"),
            ("Port", "0"),
            ("Port", "65536"),
            ("Port", "-1"),
            ("Port", "８"),
            ("Port", "80x"),
        ):
            response = await behind.call("GET", "/open", (f"X-Forwarded-{name}", value))
            assert (response.status, response.code) == (400, "invalid_request"), (name, value)
    # Nothing counts that anybody may send.
    sent = [("X-Forwarded-Proto", "wss"), ("X-Forwarded-Port", "x"), ("X-Forwarded-Prefix", "//evil")]
    assert (await server.call("GET", "/open", *sent)).status == 200
    client = server.handled_requests[-1].ctx.client
    assert (client.origin, client.base_path) == (("http", "localhost", 80), "")


async def test_a_host_without_its_port_and_a_browser_that_vouches_for_it(
    tmp_path: Path, server: ApiServer
) -> None:
    page = ("Origin", "https://llm.example:8443")
    same, proto = ("Sec-Fetch-Site", "same-origin"), ("X-Forwarded-Proto", "https")
    async with run_api_server(tmp_path / "a", **PROXIED, allowed_hosts=("llm.example",)) as behind:
        session = await behind.log_in()

        async def post(*headers: tuple[str, str]) -> int:
            response = await behind.call(
                "POST", "/any", session, FORWARDED_FOR, *headers, json_body={}, host="llm.example"
            )
            if response.status == 403:
                assert "https://llm.example:8443" in response.json["error"]["message"] or page not in headers
                assert "$http_host" in response.json["error"]["message"] or page not in headers
            return response.status

        assert await post(page, proto, same) == 200
        # A page at another port of this host is another origin. Browsers say so, old ones say nothing.
        assert await post(page, proto) == 403
        assert await post(page, proto, ("Sec-Fetch-Site", "same-site")) == 403
        # Only the port may differ, and only where it is not known.
        assert await post(page, same) == 403
        assert await post(("Origin", "https://evil.example:8443"), proto, same) == 403
        assert await post(("Origin", "null"), proto, same) == 403
        known = await behind.call(
            "POST",
            "/any",
            session,
            page,
            proto,
            same,
            ("X-Forwarded-Port", "443"),
            json_body={},
            host="llm.example",
        )
        assert known.status == 403
        assert "docs/proxies.md" in known.json["error"]["message"]
    async with run_api_server(tmp_path / "b", **PROXIED, allowed_hosts=("llm.example:8443",)) as behind:
        session = await behind.log_in()
        answer = await behind.call("POST", "/any", session, page, proto, json_body={}, host="llm.example")
        assert answer.status == 200
    untrusted = await server.call("POST", "/any", page, same, json_body={}, host="localhost")
    assert untrusted.status == 403


async def test_a_path_of_a_trusted_proxy_is_that_of_the_cookies(tmp_path: Path) -> None:
    login = {"username": "admin", "password": PASSWORD}
    async with run_api_server(tmp_path / "a", **PROXIED) as behind:

        async def cookie_path(*prefixes: str) -> str:
            sent = [("X-Forwarded-Prefix", prefix) for prefix in prefixes]
            response = await behind.call("POST", "/api/auth/login", FORWARDED_FOR, *sent, json_body=login)
            assert response.status == 200, response.body
            return str(response.header_values("set-cookie")[0]).partition("Path=")[2].partition(";")[0]

        assert await cookie_path() == "/"
        assert await cookie_path("/llb") == "/llb"
        assert await cookie_path("/tools/LLB-2/") == "/tools/LLB-2"
        assert await cookie_path("/") == await cookie_path("") == "/"
        # The last one is of the nearest proxy.
        assert await cookie_path("//evil", "/llb") == await cookie_path("//evil, /llb") == "/llb"
        for prefix in (
            "//evil.example",
            "/\\evil",
            "llb",
            "https://evil.example/",
            "/a/../b",
            "/./a",
            "/a;Domain=evil",
            "/a b",
            "/%2e%2e",
            "/é",
            "/a//b",
            '/a"onload="x',
            "/<script>",
            "/" + "a" * 300,
        ):
            refused = await behind.call("GET", "/open", ("X-Forwarded-Prefix", prefix))
            assert (refused.status, refused.code) == (400, "invalid_request"), prefix
    # The setting is the word of the host's owner, and no client can change it.
    async with run_api_server(tmp_path / "b", **PROXIED, base_path="/own") as behind:
        assert await cookie_path("/llb") == "/own"
        assert await cookie_path("//evil") == "/own"


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
