"""Base URLs of endpoints and the addresses that none may have."""

from __future__ import annotations

import pytest

from llb.policy.endpoints.addresses import (
    ForbiddenAddress,
    InvalidBaseUrl,
    is_forbidden_address,
    is_loopback_host,
    is_private_address,
    is_public_host,
    parse_base_url,
)


@pytest.mark.parametrize(
    ("text", "api_path", "root_path", "host_header"),
    [
        ("http://box:8000", "/v1", "", "box:8000"),
        ("http://box:8000/v1/", "/v1", "", "box:8000"),
        ("https://api.groq.com/openai/v1", "/openai/v1", "/openai", "api.groq.com"),
        ("https://g.example/v1beta/openai", "/v1beta/openai", "/v1beta", "g.example"),
        ("http://box/engines", "/engines/v1", "/engines", "box"),
        ("https://z.example/api/paas/v4", "/api/paas/v4", "/api/paas", "z.example"),
        ("http://[::1]:9/v1", "/v1", "", "[::1]:9"),
        ("https://box:443", "/v1", "", "box"),
    ],
)
def test_paths(text: str, api_path: str, root_path: str, host_header: str) -> None:
    url = parse_base_url(text)
    assert (url.api_path, url.root_path, url.host_header) == (api_path, root_path, host_header)
    assert parse_base_url(url.text) == url


@pytest.mark.parametrize(
    "text",
    [
        "box:8000", "file:///etc/passwd", "http://", "http://a@box", "http://box/?x=1", "http://box/#x",
        "http://box/a b", "http://box\\@evil", "http://box:0", "http://box:99999", "http://box/../x",
        "http://169.254.169.254", "http://[::ffff:a9fe:a9fe]", "http://[fd00:ec2::254]", "http://0.0.0.0",
        "http://224.0.0.1", "http://100.100.100.200", "http://[64:ff9b::a9fe:a9fe]", "http://[2002:a9fe:a9fe::]",
        "http://metadata.google.internal.", "http://[64:ff9b:1::a9fe:a9fe]",
        "http://[2001:db8::5efe:a9fe:a9fe]", "http://[fd00::200:5efe:a9fe:a9fe]", "http://[::a9fe:a9fe]",
    ],
)  # fmt: skip
def test_urls_that_are_refused(text: str) -> None:
    with pytest.raises(InvalidBaseUrl):
        parse_base_url(text)


def test_an_address_that_none_may_have_is_an_error_of_its_own() -> None:
    with pytest.raises(ForbiddenAddress):
        parse_base_url("http://169.254.169.254")


@pytest.mark.parametrize(
    ("address", "forbidden", "private"),
    [
        ("10.0.0.5", False, True),
        ("192.168.1.2", False, True),
        ("127.0.0.1", False, True),
        ("::1", False, True),
        ("fd12::1", False, True),
        ("8.8.8.8", False, False),
        ("::ffff:8.8.8.8", False, False),
        ("fe80::1%eth0", True, True),
        ("255.255.255.255", True, True),
        ("168.63.129.16", True, False),
    ],
)
def test_addresses(address: str, forbidden: bool, private: bool) -> None:
    assert (is_forbidden_address(address), is_private_address(address)) == (forbidden, private)


def test_loopback() -> None:
    hosts = {host: is_loopback_host(host) for host in ("localhost", "127.0.0.2", "::1", "box", "10.0.0.1")}
    assert hosts == {"localhost": True, "127.0.0.2": True, "::1": True, "box": False, "10.0.0.1": False}


def test_hosts_of_services_that_may_bill() -> None:
    public = {"api.example.com", "8.8.8.8", "2606:4700::1111"}
    private = {"localhost", "box", "BOX.Local", "gpu.home.arpa", "10.0.0.1", "::1", "::ffff:192.168.0.1", ""}
    assert {host for host in public | private if is_public_host(host)} == public
