"""Addresses of this host, and URLs made from them."""

from __future__ import annotations

from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest

from llb.base import net_addresses
from llb.base.net_addresses import build_base_url, build_base_urls, list_host_addresses, port_of_url


@pytest.fixture
def interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = {
        "lo": ["127.0.0.1", "::1"],
        "eth0": ["192.168.1.7", "fe80::1%eth0", "fe80::2", "fd00::7", "02:42:ac:11:00:02"],
        "eth1": ["10.0.0.7", "192.168.1.7", "169.254.3.4", "0.0.0.0", "224.0.0.1"],
    }
    entries = {name: [SimpleNamespace(address=text) for text in texts] for name, texts in addresses.items()}
    monkeypatch.setattr(net_addresses, "psutil", SimpleNamespace(net_if_addrs=lambda: entries))


@pytest.mark.usefixtures("interfaces")
def test_what_other_hosts_may_reach_each_once_ipv4_first() -> None:
    assert list_host_addresses() == ["10.0.0.7", "192.168.1.7", "fd00::7"]


@pytest.mark.usefixtures("interfaces")
def test_a_wildcard_stands_for_all_of_them() -> None:
    everywhere = ("http://10.0.0.7:80", "http://192.168.1.7:80", "http://[fd00::7]:80")
    for wildcard in ("", "0.0.0.0", "::"):
        assert build_base_urls("http", wildcard, 80) == everywhere
    assert build_base_urls("https", "attic", 8443) == ("https://attic:8443",)
    assert build_base_url("http", "::1", 1) == "http://[::1]:1"


@pytest.mark.parametrize(
    ("url", "port"), [("http://a", 80), ("https://a", 443), ("https://a:8080", 8080), ("http://[::1]:1/x", 1)]
)
def test_the_port_of_a_url(url: str, port: int) -> None:
    assert port_of_url(urlsplit(url)) == port
