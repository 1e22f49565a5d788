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

Origin = tuple[str, str, int]  # scheme, host, port

_PORTS = {"http": 80, "https": 443}
_FORWARDING = frozenset({"forwarded", "via", "x-real-ip", "x-llb-hop"})
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>\d{1,5}))?")


@dataclass(frozen=True)
class Host:
    """A Host header: `port` None means the scheme's own."""

    name: str
    port: int | None
    is_address: bool
    is_loopback: bool


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Who is at the other end. `is_local`: a program on this host that called it by a loopback name, with nothing between."""

    address: str
    scheme: str
    origin: Origin
    is_local: bool
    on_loopback: (
        bool  # as `is_local`, but perhaps a trusted proxy of this host that says nothing of its client
    )
    forwarded: bool = False  # a header says that something stands between


@lru_cache(maxsize=1024)
def parse_host(text: str) -> Host | None:
    """The parts of a Host header; None when it is none."""
    match = _HOST.fullmatch(text)
    if match is None:
        return None
    name = match["name"].lower().removesuffix(".")
    port = None if match["port"] is None else int(match["port"])
    address = plain_address(name.strip("[]"))
    if address is None and name.startswith("["):
        return None
    if address is not None:
        return Host(str(address), port, True, address.is_loopback)
    return Host(name, port, False, name == "localhost" or name.endswith(".localhost"))


@lru_cache(maxsize=1024)
def parse_origin(text: str) -> Origin | None:
    """Scheme, host and port of an Origin header; None for `null` and what is no web page."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    host = parse_host(parts.netloc)
    if parts.scheme not in _PORTS or host is None or parts.path not in ("", "/") or parts.query:
        return None
    return parts.scheme, host.name, port if port is not None else _PORTS[parts.scheme]


@lru_cache(maxsize=4096)
def is_loopback(address: str) -> bool:
    """Whether an IP address is this host's own loopback, IPv4 mapped into IPv6 too."""
    ip = plain_address(address)
    return ip is not None and ip.is_loopback


@lru_cache(maxsize=4096)
def plain_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An IP address, IPv4 mapped into IPv6 as what it is; None for what is none."""
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return None
    # The mapped form is the same host; Python 3.11 does not call ::ffff:127.0.0.1 a loopback.
    return getattr(ip, "ipv4_mapped", None) or ip


class Doorway:
    """The names this server is called by and the proxies it believes."""

    def __init__(self, config: Config) -> None:
        """Raises `SetupError` for a name or an address that cannot be one."""
        own = socket.gethostname().lower()
        self._names = {own, own.partition(".")[0], own.partition(".")[0] + ".local"}
        self._names.update(_allowed(text).name for text in config.allowed_hosts)
        if config.advertise is not None and (advertised := parse_origin(config.advertise)) is not None:
            self._names.add(advertised[1])
        self._proxies = tuple(_network(text) for text in config.trusted_proxies)

    def look(self, request: Request) -> Peer:
        """Who calls and how; raises `UnknownHost` for a name that is not this server's (this stops DNS rebinding)."""
        host = self._header_host(request)
        peer_address = request.conn_info.client_ip if request.conn_info is not None else ""
        forwarded = _is_forwarded(tuple(request.headers))
        trusted = bool(self._proxies) and self._is_proxy(peer_address)
        address = _written(peer_address)
        scheme = "https" if request.conn_info is not None and request.conn_info.ssl else "http"
        on_loopback = (
            not forwarded and host.is_loopback and is_loopback(peer_address) and _own_end_is_loopback(request)
        )
        if trusted:
            address = self._client_behind(request, peer_address)
            scheme = _last(request, "x-forwarded-proto") or scheme
            if scheme not in _PORTS:
                raise InvalidRequest("X-Forwarded-Proto is neither http nor https")
            if (outer := _last(request, "x-forwarded-host")) is not None:
                host = _parsed(outer)
        if not (host.is_address or host.is_loopback or host.name in self._names):
            raise UnknownHost("This server is not known by that name; allow it with --allowed-host")
        return Peer(
            address=address,
            scheme=scheme,
            origin=(scheme, host.name, host.port if host.port is not None else _PORTS[scheme]),
            is_local=on_loopback and not trusted,
            on_loopback=on_loopback,
            forwarded=forwarded,
        )

    def _header_host(self, request: Request) -> Host:
        given = request.headers.getall("host", [])
        if len(given) != 1:
            raise InvalidRequest("A request must have exactly one Host header")
        return _parsed(given[0])

    def _is_proxy(self, address: str) -> bool:
        ip = plain_address(address)
        return ip is not None and any(ip in network for network in self._proxies)

    def _client_behind(self, request: Request, peer_address: str) -> str:
        """The last address that no trusted proxy has; what is further left, the client may have invented."""
        hops = [
            hop.strip() for line in request.headers.getall("x-forwarded-for", []) for hop in line.split(",")
        ]
        for hop in reversed(hops):
            ip = plain_address(hop.strip("[]"))
            if ip is None:
                return peer_address
            if not self._is_proxy(str(ip)):
                return str(ip)
        return peer_address


def _parsed(text: str) -> Host:
    host = parse_host(text.strip())
    if host is None:
        raise InvalidRequest("The Host header is malformed")
    return host


@lru_cache(maxsize=4096)
def _written(address: str) -> str:
    """An IP address as it is shown, IPv4 mapped into IPv6 as what it is."""
    return str(plain_address(address) or address)


@lru_cache(maxsize=1024)  # a client sends the same names again and again
def _is_forwarded(names: tuple[str, ...]) -> bool:
    return any(name.lower() in _FORWARDING or name.lower().startswith("x-forwarded-") for name in names)


def _last(request: Request, name: str) -> str | None:
    lines = request.headers.getall(name, [])
    return lines[-1].rpartition(",")[2].strip().lower() if lines else None


def _own_end_is_loopback(request: Request) -> bool:
    own = request.conn_info.sockname if request.conn_info is not None else None
    return isinstance(own, tuple) and is_loopback(own[0])


def _allowed(text: str) -> Host:
    host = parse_host(text)
    if host is None:
        raise SetupError(f"--allowed-host: '{text}' is not a host name.")
    return host


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise SetupError(f"--trusted-proxy: '{text}' is not an address or a network.") from None
