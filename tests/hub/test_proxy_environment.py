"""Proxy variables that the client of the Hub cannot use."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from llb.hub import HubClient, HubUnreachable
from llb.hub.proxy_environment import find_unusable_proxy
from tests.hub import HubStandIn

UNUSABLE = [
    ({"ALL_PROXY": "socks://127.0.0.1:1080"}, "ALL_PROXY is a SOCKS proxy (socks://…)"),
    ({"all_proxy": "socks5h://user:secret@127.0.0.1:1"}, "all_proxy is a SOCKS proxy (socks5h://…)"),
    ({"HTTPS_PROXY": "SOCKS5://h:1"}, "HTTPS_PROXY is a SOCKS proxy"),
    ({"HTTPS_PROXY": "http://good:3128", "ALL_PROXY": "socks5://h:1"}, "ALL_PROXY is a SOCKS proxy"),
    ({"HTTPS_PROXY": "socks5://h:1", "HTTP_PROXY": "http://h:1", "ALL_PROXY": "x"}, "HTTPS_PROXY is a SOCKS"),
    ({"https_proxy": "ftp://h:1"}, "https_proxy is not the address of a proxy"),
    ({"HTTPS_PROXY": "http://[::1"}, "HTTPS_PROXY is not the address of a proxy"),
    ({"HTTPS_PROXY": "http://h:port"}, "HTTPS_PROXY is not the address of a proxy"),
    ({"HTTP_PROXY": "http://"}, "HTTP_PROXY is not the address of a proxy"),
    ({"HTTPS_PROXY": "http://h:1\n"}, "HTTPS_PROXY is not the address of a proxy"),
]
USABLE: list[dict[str, str]] = [
    {},
    {"HTTPS_PROXY": "", "ALL_PROXY": ""},
    {"HTTPS_PROXY": "http://user:secret@proxy.example:3128", "http_proxy": "proxy.example:3128"},
    {"ALL_PROXY": "https://proxy.example"},
    {"ALL_PROXY": "socks5://h:1", "NO_PROXY": "localhost, *"},
    # The lower-case name counts.
    {"ALL_PROXY": "socks5://h:1", "all_proxy": "http://h:1"},
]


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(("variables", "clause"), UNUSABLE)
async def test_one_that_cannot_be_used_is_named(
    variables: dict[str, str], clause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    hub = HubClient("http://127.0.0.1:1")
    with pytest.raises(HubUnreachable) as refused:
        await hub.fetch_stats("org/name")
    await hub.aclose()
    assert str(refused.value).startswith(f"the Hub cannot be reached: {clause}")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("variables", USABLE)
async def test_the_others_make_a_client(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert find_unusable_proxy() is None
    hub = HubClient("http://127.0.0.1:1")
    hub.get_http_client()
    await hub.aclose()


async def test_all_proxy_does_not_matter_where_each_scheme_has_a_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the settings of many desktop proxies are: requests go to the HTTP proxy, except for NO_PROXY."""
    with HubStandIn() as standin, socket.create_server(("127.0.0.1", 0)) as proxy:
        standin.add_repo("org/name", {"f.gguf": b"GGUF"}, downloads=7)
        address = f"127.0.0.1:{proxy.getsockname()[1]}"
        for name, value in (("HTTP_PROXY", address), ("HTTPS_PROXY", address), ("ALL_PROXY", "socks5://h:1")):
            monkeypatch.setenv(name, value)
        assert find_unusable_proxy() is None
        hub = HubClient(standin.url)
        asked = asyncio.ensure_future(hub.fetch_stats("org/name"))
        connection, _ = await asyncio.get_running_loop().run_in_executor(None, proxy.accept)
        with connection:
            assert connection.recv(4096).startswith(b"GET http://127.0.0.1")
        with pytest.raises(HubUnreachable):
            await asked
        await hub.aclose()
        assert standin.requests == []
        monkeypatch.setenv("NO_PROXY", "example.org, 127.0.0.1")
        hub = HubClient(standin.url)
        assert (await hub.fetch_stats("org/name")).downloads == 7
        await hub.aclose()


async def test_offline_asks_nobody() -> None:
    hub = HubClient("http://127.0.0.1:1", offline=True)
    with pytest.raises(HubUnreachable, match="not asked, because HF_HUB_OFFLINE is set"):
        await hub.resolve_file("org/name", "file.gguf")
    await hub.aclose()


@pytest.mark.parametrize("token", ["hf_x\n", "  hf_x ", "hf_x\r\n"])
def test_a_token_is_sent_without_blanks_around_it(token: str) -> None:
    assert HubClient("http://h", token).auth_headers("http://h/x") == {"Authorization": "Bearer hf_x"}
    assert HubClient("http://h", " \n").auth_headers("http://h/x") == {}
