"""Network addresses of this host, and the base URLs made from them."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import SplitResult

import psutil


def list_host_addresses() -> list[str]:
    """Return the addresses that other hosts may reach: no loopback and no link-local ones, IPv4 first."""
    addresses = {
        entry.address
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if _is_routable(entry.address)
    }
    return sorted(addresses, key=lambda text: (ip_address(text).version, text))


def build_base_urls(scheme: str, listen_host: str, port: int) -> tuple[str, ...]:
    """Return the base URLs of a server that listens on `listen_host`: one per address for a wildcard."""
    is_wildcard = listen_host in ("", "0.0.0.0", "::")  # noqa: S104
    hosts = list_host_addresses() if is_wildcard else [listen_host]
    return tuple(build_base_url(scheme, host, port) for host in hosts)


def build_base_url(scheme: str, host: str, port: int) -> str:
    """Return `scheme://host:port`, with an IPv6 address in brackets."""
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def port_of_url(parts: SplitResult) -> int:
    """Return the port of an `http` or `https` URL, the scheme's default if it names none."""
    return parts.port or (443 if parts.scheme == "https" else 80)


def _is_routable(text: str) -> bool:
    try:
        address = ip_address(text)
    except ValueError:
        # A MAC address, or an IPv6 address with a zone.
        return False
    return not (
        address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast
    )
