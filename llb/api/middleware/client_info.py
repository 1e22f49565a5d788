"""Client information: address of the client, and the name by which it called this server.

The only module that reads peer addresses and forwarding headers.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
import time
from functools import lru_cache
from urllib.parse import urlsplit

from msgspec import Struct

from llb.api.incoming_request import IncomingRequest
from llb.config import Config, parse_base_path
from llb.errors import InvalidRequest, SetupError, UnknownHost

log = logging.getLogger(__name__)

# Scheme, host, port.
WebOrigin = tuple[str, str, int]

_DEFAULT_PORTS = {"http": 80, "https": 443}
# Traefik names the scheme of a WebSocket.
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
# Headers that proxies, content delivery networks and tunnels add. Their absence proves nothing.
_PROXY_HEADERS = frozenset(
    {
        "forwarded",
        "via",
        "cdn-loop",
        "client-ip",
        "front-end-https",
        "max-forwards",
        "proxy-authorization",
        "proxy-client-ip",
        "proxy-connection",
        "remote-addr",
        "remote-user",
        "surrogate-capability",
        "true-client-ip",
        "wl-proxy-client-ip",
        "x-amz-cf-id",
        "x-arr-log-id",
        "x-arr-ssl",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-coming-from",
        "x-forwarded",
        "x-host",
        "x-https",
        "x-llb-hop",
        "x-nginx-proxy",
        "x-proxyuser-ip",
        "x-real-ip",
        "x-real-port",
        "x-remote-addr",
        "x-remote-ip",
        "x-remote-user",
        "x-request-start",
        "x-rewrite-url",
        "x-scheme",
        "x-ssl",
        "x-url-scheme",
        "x-varnish",
    }
)
_PROXY_HEADER_PREFIXES = (
    "akamai-",
    "cf-",
    "cloudfront-",
    "fastly-",
    "fly-",
    "incap-",
    "ngrok-",
    "ssl-client-",
    "tailscale-",
    "x-akamai-",
    "x-appengine-",
    "x-azure-",
    "x-envoy-",
    "x-forwarded-",
    "x-original-",
    "x-originating-",
    "x-proxy-",
    "x-sucuri-",
    "x-tailscale-",
    "x-vercel-",
)
# How long a trusted proxy is believed to set no X-Forwarded-For after a request that showed it.
_INCOMPLETE_PROXY_TTL_S = 3600.0
_MAX_INCOMPLETE_PROXIES = 1000
_PORT_PATTERN = re.compile("[0-9]{1,5}")
_HOST_PATTERN = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")


class HostHeader(Struct, frozen=True):
    """A parsed Host header; `port` None means the default of the scheme."""

    name: str
    port: int | None
    is_ip_address: bool
    is_loopback: bool


class ClientInfo(Struct, frozen=True, kw_only=True):
    """The client of a request.

    `origin` is the one of this server, as the client called it.
    """

    address: str
    scheme: str
    origin: WebOrigin
    # Both ends of the connection are loopback addresses.
    is_loopback_peer: bool
    # The same, by a loopback name and without the header of a proxy. No proof that a program of this host
    # calls: see `LocalProof`.
    on_loopback: bool
    # The connection comes from an address of --trusted-proxy.
    is_trusted_proxy: bool
    # First header by which a proxy shows itself.
    proxy_header: str | None = None
    # Where a reverse proxy serves llb below a path: that path, without a slash at its end.
    base_path: str = ""
    # A trusted proxy passed on a Host without its port, which may be another than that of `origin`.
    is_port_unknown: bool = False

    @property
    def base_origin(self) -> str:
        """Origin of this server as the client called it, as text."""
        return format_origin(self.origin)

    @property
    def base_url(self) -> str:
        """URL of this server as the client called it, without a slash at its end."""
        return self.base_origin + self.base_path


# Most connections of a client have the same.
_shared_client = lru_cache(maxsize=1024)(ClientInfo)


@lru_cache(maxsize=1024)
def parse_host(text: str) -> HostHeader | None:
    """Parse a Host header; None where it is not valid."""
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
    """Parse an Origin header; None for `null` and for schemes other than HTTP."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    host = parse_host(parts.netloc)
    if parts.scheme not in _DEFAULT_PORTS or host is None or parts.path not in ("", "/") or parts.query:
        return None
    return parts.scheme, host.name, port if port is not None else _DEFAULT_PORTS[parts.scheme]


def format_origin(origin: WebOrigin) -> str:
    """Return the origin as browsers write it."""
    scheme, host, port = origin
    name = f"[{host}]" if ":" in host else host
    return f"{scheme}://{name}" if port == _DEFAULT_PORTS[scheme] else f"{scheme}://{name}:{port}"


@lru_cache(maxsize=4096)
def is_loopback(address: str) -> bool:
    """Whether an IP address is a loopback one, also as IPv4 mapped into IPv6."""
    ip = parse_ip_address(address)
    return ip is not None and ip.is_loopback


@lru_cache(maxsize=4096)
def parse_ip_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse an IP address, with IPv4 mapped into IPv6 as IPv4; None where it is not valid."""
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return None
    # The mapped form is the same host. Python 3.11 does not count ::ffff:127.0.0.1 as loopback.
    return getattr(ip, "ipv4_mapped", None) or ip


class ClientInfoResolver:
    """Determines the client of a request, with the names of this server and its trusted proxies."""

    def __init__(self, config: Config) -> None:
        """Raises `SetupError` for an invalid allowed host or trusted proxy."""
        own = socket.gethostname().lower()
        self._own_hostnames = {own, own.partition(".")[0], own.partition(".")[0] + ".local"}
        allowed = [_parse_allowed_host(text) for text in config.allowed_hosts]
        self._own_hostnames.update(host.name for host in allowed)
        # For proxies that pass on Host without it.
        self._public_ports = {host.name: host.port for host in allowed if host.port is not None}
        self._base_path = config.base_path
        if config.advertise is not None and (advertised := parse_origin(config.advertise)) is not None:
            self._own_hostnames.add(advertised[1])
        self._trusted_proxies = parse_trusted_proxies(config)
        # When each trusted proxy last showed that it sets no X-Forwarded-For, by its address.
        self._incomplete_proxies: dict[str, float] = {}

    def resolve(self, request: IncomingRequest, *, allows_missing_host: bool = False) -> ClientInfo:
        """Return the client of `request`.

        Raises `UnknownHost` for a name that is not this server's, and `InvalidRequest` for headers that are
        malformed.
        """
        host = self._host_of(request, allows_missing_host=allows_missing_host)
        peer_address = request.conn_info.client_ip if request.conn_info is not None else ""
        proxy_header = _proxy_header_of(tuple(request.headers))
        trusted = bool(self._trusted_proxies) and self._is_trusted_proxy(peer_address)
        address = _format_ip_address(peer_address)
        scheme = "https" if request.conn_info is not None and request.conn_info.ssl else "http"
        is_loopback_peer = is_loopback(peer_address) and _is_bound_to_loopback(request)
        on_loopback = is_loopback_peer and proxy_header is None and host.is_loopback
        if trusted:
            address = self._forwarded_client_address(request, peer_address)
            scheme = self._forwarded_scheme(request) or scheme
            if forwarded_host := _last_header_value(request, "x-forwarded-host"):
                host = _require_host(forwarded_host)
        self._check_host(host)
        port = host.port
        if trusted and port is None:
            port = self._forwarded_port(request) or self._public_ports.get(host.name)
        return _shared_client(
            address=address,
            scheme=scheme,
            origin=(scheme, host.name, port if port is not None else _DEFAULT_PORTS[scheme]),
            is_loopback_peer=is_loopback_peer,
            on_loopback=on_loopback,
            is_trusted_proxy=trusted,
            proxy_header=proxy_header,
            base_path=self._base_path or (_forwarded_base_path(request) if trusted else ""),
            is_port_unknown=trusted and port is None,
        )

    def _check_host(self, host: HostHeader) -> None:
        """Raise `UnknownHost` for a foreign name: this stops DNS rebinding."""
        if not (host.is_ip_address or host.is_loopback or host.name in self._own_hostnames):
            raise UnknownHost("This server is not known by that name; allow it with --allowed-host")

    @staticmethod
    def _forwarded_scheme(request: IncomingRequest) -> str | None:
        given = _last_header_value(request, "x-forwarded-proto")
        if not given:
            return None
        if given not in _SCHEMES:
            raise InvalidRequest("X-Forwarded-Proto must be http, https, ws or wss")
        return _SCHEMES[given]

    @staticmethod
    def _forwarded_port(request: IncomingRequest) -> int | None:
        given = _last_header_value(request, "x-forwarded-port")
        if not given:
            return None
        if not _PORT_PATTERN.fullmatch(given) or not 0 < int(given) < 65536:
            raise InvalidRequest("X-Forwarded-Port must be the number of a port")
        return int(given)

    @staticmethod
    def _host_of(request: IncomingRequest, *, allows_missing_host: bool) -> HostHeader:
        given = request.headers.getall("host", [])
        if allows_missing_host and given in ([], [""]):
            own = request.conn_info.sockname if request.conn_info is not None else None
            address = str(own[0]).partition("%")[0] if isinstance(own, tuple) else "0.0.0.0"  # noqa: S104
            return HostHeader(_format_ip_address(address), None, is_ip_address=True, is_loopback=False)
        if len(given) != 1:
            raise InvalidRequest("A request must have exactly one Host header")
        return _require_host(given[0])

    def _is_trusted_proxy(self, address: str) -> bool:
        ip = parse_ip_address(address)
        return ip is not None and any(ip in network for network in self._trusted_proxies)

    def _forwarded_client_address(self, request: IncomingRequest, peer_address: str) -> str:
        """Return the last address that is not a trusted proxy; the client may have invented earlier ones.

        A proxy that names the scheme or the host of a request but not its client passes on what clients
        write into X-Forwarded-For. Once that has shown, its own address counts.
        """
        lines = request.headers.getall("x-forwarded-for", [])
        if not lines and ("x-forwarded-proto" in request.headers or "x-forwarded-host" in request.headers):
            self._remember_incomplete_proxy(peer_address)
        if not lines or self._is_incomplete_proxy(peer_address):
            return _format_ip_address(peer_address)
        hops = [hop.strip() for line in lines for hop in line.split(",")]
        for hop in reversed(hops):
            ip = parse_ip_address(hop.strip("[]"))
            if ip is None:
                break
            if not self._is_trusted_proxy(str(ip)):
                return str(ip)
        return _format_ip_address(peer_address)

    def _remember_incomplete_proxy(self, address: str) -> None:
        if address not in self._incomplete_proxies:
            if len(self._incomplete_proxies) >= _MAX_INCOMPLETE_PROXIES:
                self._incomplete_proxies.clear()
            log.warning(
                "The trusted proxy %s sets no X-Forwarded-For, so its clients could choose their address. "
                "Its own address takes the place of theirs; docs/proxies.md has a complete configuration",
                address,
            )
        self._incomplete_proxies[address] = time.monotonic()

    def _is_incomplete_proxy(self, address: str) -> bool:
        shown_at = self._incomplete_proxies.get(address)
        return shown_at is not None and time.monotonic() - shown_at < _INCOMPLETE_PROXY_TTL_S


def _require_host(text: str) -> HostHeader:
    host = parse_host(text.strip())
    if host is None:
        raise InvalidRequest("The Host header is malformed")
    return host


@lru_cache(maxsize=4096)
def _format_ip_address(address: str) -> str:
    """Format an IP address, with IPv4 mapped into IPv6 as IPv4."""
    return str(parse_ip_address(address) or address)


# Cached, because a client sends the same names in every request.
@lru_cache(maxsize=1024)
def _proxy_header_of(names: tuple[str, ...]) -> str | None:
    """Return the first header by which a proxy shows itself, None without one."""
    for name in map(str.lower, names):
        if name in _PROXY_HEADERS or name.startswith(_PROXY_HEADER_PREFIXES):
            return name
    return None


def _forwarded_base_path(request: IncomingRequest) -> str:
    """Return the path that the nearest proxy has cut off, empty without one."""
    lines = request.headers.getall("x-forwarded-prefix", [])
    try:
        return parse_base_path(lines[-1].rpartition(",")[2].strip()) if lines else ""
    except ValueError:
        raise InvalidRequest("X-Forwarded-Prefix must be a path such as /llb") from None


def _last_header_value(request: IncomingRequest, name: str) -> str | None:
    lines = request.headers.getall(name, [])
    return lines[-1].rpartition(",")[2].strip().lower() if lines else None


def _is_bound_to_loopback(request: IncomingRequest) -> bool:
    own = request.conn_info.sockname if request.conn_info is not None else None
    return isinstance(own, tuple) and is_loopback(own[0])


def _parse_allowed_host(text: str) -> HostHeader:
    host = parse_host(text)
    if host is None:
        raise SetupError(f"--allowed-host: '{text}' is not a host name.")
    return host


def parse_trusted_proxies(config: Config) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """Return the networks of the trusted proxies. Raises `SetupError`."""
    return tuple(_parse_trusted_proxy(text) for text in config.trusted_proxies)


def _parse_trusted_proxy(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise SetupError(f"--trusted-proxy: '{text}' is not an address or a network.") from None
