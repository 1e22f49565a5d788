"""The network addresses of this host that mean something to others."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import SplitResult

import psutil


def list_host_addresses() -> list[str]:
    """IPv4 first; neither loopback nor link-local ones, which mean nothing elsewhere."""
    found = {
        entry.address
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if _is_routable(entry.address)
    }
    return sorted(found, key=lambda text: (ip_address(text).version, text))


def build_base_urls(scheme: str, listen_host: str, port: int) -> tuple[str, ...]:
    """Where a server that listens on `listen_host` may be reached, as `scheme://host:port`."""
    everywhere = listen_host in ("", "0.0.0.0", "::")  # noqa: S104  # compared, not bound
    hosts = list_host_addresses() if everywhere else [listen_host]
    return tuple(build_base_url(scheme, host, port) for host in hosts)


def build_base_url(scheme: str, host: str, port: int) -> str:
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def port_of_url(parts: SplitResult) -> int:
    """Return the port of an `http` or `https` URL, the scheme's default if it names none."""
    return parts.port or (443 if parts.scheme == "https" else 80)


def _is_routable(text: str) -> bool:
    try:
        address = ip_address(text)
    except ValueError:
        return False  # a MAC address, or one with a zone
    return not (
        address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast
    )
