"""Where a request comes from and how this server was called. The only place that looks at peers and forwarding headers."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from sanic import Request

from llb.config import Config
from llb.errors import InvalidRequest, SetupError, UnknownHost

WebOrigin = tuple[str, str, int]  # scheme, host, port

_DEFAULT_PORTS = {"http": 80, "https": 443}
_FORWARDING_HEADERS = frozenset({"forwarded", "via", "x-real-ip", "x-llb-hop"})
_HOST_PATTERN = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>\d{1,5}))?")


@dataclass(frozen=True)
class HostHeader:
    """A Host header: `port` None means the scheme's own."""

    name: str
    port: int | None
    is_ip_address: bool
    is_loopback: bool


@dataclass(frozen=True, kw_only=True)
class ClientInfo:
    """Who is at the other end. `is_local`: a program on this host that called it by a loopback name, with nothing between."""

    address: str
    scheme: str
    origin: WebOrigin
    is_local: bool
    on_loopback: (
        bool  # as `is_local`, but perhaps a trusted proxy of this host that says nothing of its client
    )
    is_forwarded: bool = False  # a header says that something stands between


@lru_cache(maxsize=1024)
def parse_host(text: str) -> HostHeader | None:
    """The parts of a Host header; None when it is none."""
    match = _HOST_PATTERN.fullmatch(text)
    if match is None:
        return None
    name = match["name"].lower().removesuffix(".")
    port = None if match["port"] is None else int(match["port"])
    address = parse_ip_address(name.strip("[]"))
    if address is None and name.startswith("["):
        return None
    if address is not None:
        return HostHeader(str(address), port, True, address.is_loopback)
    return HostHeader(name, port, False, name == "localhost" or name.endswith(".localhost"))


@lru_cache(maxsize=1024)
def parse_origin(text: str) -> WebOrigin | None:
    """Scheme, host and port of an Origin header; None for `null` and what is no web page."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    host = parse_host(parts.netloc)
    if parts.scheme not in _DEFAULT_PORTS or host is None or parts.path not in ("", "/") or parts.query:
        return None
    return parts.scheme, host.name, port if port is not None else _DEFAULT_PORTS[parts.scheme]


@lru_cache(maxsize=4096)
def is_loopback(address: str) -> bool:
    """Whether an IP address is this host's own loopback, IPv4 mapped into IPv6 too."""
    ip = parse_ip_address(address)
    return ip is not None and ip.is_loopback


@lru_cache(maxsize=4096)
def parse_ip_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An IP address, IPv4 mapped into IPv6 as what it is; None for what is none."""
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return None
    # The mapped form is the same host; Python 3.11 does not call ::ffff:127.0.0.1 a loopback.
    return getattr(ip, "ipv4_mapped", None) or ip


class ClientInfoResolver:
    """The names this server is called by and the proxies it believes."""

    def __init__(self, config: Config) -> None:
        """Raises `SetupError` for a name or an address that cannot be one."""
        own = socket.gethostname().lower()
        self._own_hostnames = {own, own.partition(".")[0], own.partition(".")[0] + ".local"}
        self._own_hostnames.update(_parse_allowed_host(text).name for text in config.allowed_hosts)
        if config.advertise is not None and (advertised := parse_origin(config.advertise)) is not None:
            self._own_hostnames.add(advertised[1])
        self._trusted_proxies = tuple(_parse_trusted_proxy(text) for text in config.trusted_proxies)

    def resolve(self, request: Request) -> ClientInfo:
        """Who calls and how; raises `UnknownHost` for a name that is not this server's (this stops DNS rebinding)."""
        host = self._host_of(request)
        peer_address = request.conn_info.client_ip if request.conn_info is not None else ""
        forwarded = _is_forwarded(tuple(request.headers))
        trusted = bool(self._trusted_proxies) and self._is_trusted_proxy(peer_address)
        address = _format_ip_address(peer_address)
        scheme = "https" if request.conn_info is not None and request.conn_info.ssl else "http"
        on_loopback = (
            not forwarded
            and host.is_loopback
            and is_loopback(peer_address)
            and _is_bound_to_loopback(request)
        )
        if trusted:
            address = self._forwarded_client_address(request, peer_address)
            scheme = _last_header_value(request, "x-forwarded-proto") or scheme
            if scheme not in _DEFAULT_PORTS:
                raise InvalidRequest("X-Forwarded-Proto is neither http nor https")
            if (outer := _last_header_value(request, "x-forwarded-host")) is not None:
                host = _require_host(outer)
        if not (host.is_ip_address or host.is_loopback or host.name in self._own_hostnames):
            raise UnknownHost("This server is not known by that name; allow it with --allowed-host")
        return ClientInfo(
            address=address,
            scheme=scheme,
            origin=(scheme, host.name, host.port if host.port is not None else _DEFAULT_PORTS[scheme]),
            is_local=on_loopback and not trusted,
            on_loopback=on_loopback,
            is_forwarded=forwarded,
        )

    def _host_of(self, request: Request) -> HostHeader:
        given = request.headers.getall("host", [])
        if len(given) != 1:
            raise InvalidRequest("A request must have exactly one Host header")
        return _require_host(given[0])

    def _is_trusted_proxy(self, address: str) -> bool:
        ip = parse_ip_address(address)
        return ip is not None and any(ip in network for network in self._trusted_proxies)

    def _forwarded_client_address(self, request: Request, peer_address: str) -> str:
        """The last address that no trusted proxy has; what is further left, the client may have invented."""
        hops = [
            hop.strip() for line in request.headers.getall("x-forwarded-for", []) for hop in line.split(",")
        ]
        for hop in reversed(hops):
            ip = parse_ip_address(hop.strip("[]"))
            if ip is None:
                return peer_address
            if not self._is_trusted_proxy(str(ip)):
                return str(ip)
        return peer_address


def _require_host(text: str) -> HostHeader:
    host = parse_host(text.strip())
    if host is None:
        raise InvalidRequest("The Host header is malformed")
    return host


@lru_cache(maxsize=4096)
def _format_ip_address(address: str) -> str:
    """An IP address as it is shown, IPv4 mapped into IPv6 as what it is."""
    return str(parse_ip_address(address) or address)


@lru_cache(maxsize=1024)  # a client sends the same names again and again
def _is_forwarded(names: tuple[str, ...]) -> bool:
    return any(
        name.lower() in _FORWARDING_HEADERS or name.lower().startswith("x-forwarded-") for name in names
    )


def _last_header_value(request: Request, name: str) -> str | None:
    lines = request.headers.getall(name, [])
    return lines[-1].rpartition(",")[2].strip().lower() if lines else None


def _is_bound_to_loopback(request: Request) -> bool:
    own = request.conn_info.sockname if request.conn_info is not None else None
    return isinstance(own, tuple) and is_loopback(own[0])


def _parse_allowed_host(text: str) -> HostHeader:
    host = parse_host(text)
    if host is None:
        raise SetupError(f"--allowed-host: '{text}' is not a host name.")
    return host


def _parse_trusted_proxy(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise SetupError(f"--trusted-proxy: '{text}' is not an address or a network.") from None
