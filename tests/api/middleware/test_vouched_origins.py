"""A proxy that passes on Host without its port: the WebSocket of the page, for which its browser vouches."""

from __future__ import annotations

from pathlib import Path

from tests.api.http_server import PASSWORD, run_api_server

PAGE, OTHER_PORT = "https://llm.example:8443", "https://llm.example:9999"
HOST = "llm.example"
PROXY = (("X-Forwarded-For", "203.0.113.9"), ("X-Forwarded-Proto", "https"))
SAME, NAMED = ("Sec-Fetch-Site", "same-origin"), ("X-Page-Origin", PAGE)


async def test_only_the_page_that_the_browser_vouches_for_opens_a_websocket(tmp_path: Path) -> None:
    settings = {"admin_password": PASSWORD, "trusted_proxies": ("127.0.0.1",), "allowed_hosts": (HOST,)}
    async with run_api_server(tmp_path, **settings) as server:
        session, other_session = await server.log_in(), await server.log_in()

        async def socket(origin: str, *headers: tuple[str, str]) -> int:
            return await server.websocket_status(*PROXY, ("Origin", origin), *headers, host=HOST)

        async def read(*headers: tuple[str, str]) -> None:
            response = await server.call("GET", "/any", *PROXY, session, *headers, host=HOST)
            assert response.status in (200, 401)

        assert await socket(PAGE, session) == 403
        # None of these is what the page of this server sends.
        await read(NAMED)
        await read(NAMED, ("Sec-Fetch-Site", "same-site"))
        await read(NAMED, ("Sec-Fetch-Site", "none"))
        await read(NAMED, SAME, ("Origin", OTHER_PORT.replace("llm", "evil")))
        for named in (
            "https://evil.example:8443",
            "http://llm.example:8443",
            "null",
            "x",
            "https://llm.example:8443/x",
        ):
            await read(SAME, ("X-Page-Origin", named))
        assert await socket(PAGE, session) == 403

        await read(NAMED, SAME)
        assert await socket(PAGE, session) == 101
        for origin in (OTHER_PORT, "http://llm.example:8443", "https://evil.example:8443", "null"):
            assert await socket(origin, session) == 403, origin
        # For this session only, and only where the port is not known.
        assert await socket(PAGE, other_session) == 403
        assert await socket(PAGE) == 403
        assert await socket(PAGE, session, ("X-Forwarded-Port", "443")) == 403
        assert await socket(PAGE, session, ("Sec-Fetch-Site", "same-site")) == 403
    async with run_api_server(tmp_path / "direct", admin_password=PASSWORD, allowed_hosts=(HOST,)) as server:
        session = await server.log_in()
        await server.call("GET", "/any", session, NAMED, SAME, host=HOST)
        assert await server.websocket_status(("Origin", PAGE), session, host=HOST) == 403
