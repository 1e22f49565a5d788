"""Base URLs of endpoints, and the addresses that none may have: those of metadata services and of one link.

Addresses of the private network are allowed: engines run there.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import quote, urlsplit

from msgspec import Struct

from llb.texts.coded_text import CodedText

MAX_URL_CHARS = 2048
_DEFAULT_PORTS = {"http": 80, "https": 443}
# Metadata services outside of the link-local range: Alibaba, Oracle, Azure, AWS.
_METADATA_ADDRESSES = frozenset(
    map(ip_address, ("100.100.100.200", "192.0.0.192", "168.63.129.16", "fd00:ec2::254", "fd20:ce::254"))
)
# The well-known prefix, and the one for networks of their own.
_NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
# Third quarter of an address of an ISATAP tunnel, with and without the bit for a global one.
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)
_THIS_NETWORK = IPv4Network("0.0.0.0/8")
_VERSION_SEGMENT = re.compile(r"v\d+\w*|openai")
# What a path may have besides letters and digits; `%` belongs to an escape that is there already.
_PATH_CHARACTERS = "/-._~%:@!$&'()*+,;="

# Suffixes of host names in local networks.
_LOCAL_SUFFIXES = (".local", ".lan", ".internal", ".localhost", ".home.arpa")


class InvalidBaseUrl(ValueError):
    """Not a base URL of an endpoint. The message is a clause that follows a name."""


class ForbiddenAddress(InvalidBaseUrl):
    """Address that no endpoint may have."""


class BaseUrl(Struct, frozen=True):
    """Scheme, host, port and path of an endpoint. The path has no `/` at its end."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def is_tls(self) -> bool:
        return self.scheme == "https"

    @property
    def has_default_port(self) -> bool:
        return self.port == _DEFAULT_PORTS[self.scheme]

    @property
    def host_header(self) -> str:
        """Value of the header `Host`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.has_default_port else f"{host}:{self.port}"

    @property
    def text(self) -> str:
        return f"{self.scheme}://{self.host_header}{self.path}"

    @property
    def api_path(self) -> str:
        """Path before `/chat/completions`: users give a base with and without `/v1`."""
        return self.path if _VERSION_SEGMENT.fullmatch(self._last_segment) else f"{self.path}/v1"

    @property
    def root_path(self) -> str:
        """Path before routes outside of `/v1`."""
        if _VERSION_SEGMENT.fullmatch(self._last_segment):
            return self.path[: -len(self._last_segment) - 1]
        return self.path

    @property
    def _last_segment(self) -> str:
        return self.path.rpartition("/")[2]


def parse_base_url(text: str) -> BaseUrl:
    """Parse a base URL. Raises `InvalidBaseUrl`, also for a forbidden address that is written in it."""
    if len(text) > MAX_URL_CHARS:
        raise InvalidBaseUrl(
            CodedText("url_too_long", "must have at most {max} characters", max=MAX_URL_CHARS)
        )
    if any(character.isspace() or not character.isprintable() for character in text) or "\\" in text:
        raise InvalidBaseUrl(
            CodedText("url_characters", "must not contain spaces, control characters or backslashes")
        )
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise InvalidBaseUrl(CodedText("url_form", "must be a URL such as http://host:8000/v1")) from None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise InvalidBaseUrl(CodedText("url_scheme", "must be an http:// or https:// URL"))
    if "@" in parts.netloc:
        raise InvalidBaseUrl(
            CodedText("url_user", "must not contain a user name or a password: give the key on its own")
        )
    if parts.query or parts.fragment or "?" in text or "#" in text:
        raise InvalidBaseUrl(CodedText("url_query", "must not have a query or a fragment"))
    if port == 0:
        raise InvalidBaseUrl(CodedText("url_port", "must not have the port 0"))
    host = parts.hostname.rstrip(".")
    try:
        host = host if ":" in host else host.encode("idna").decode("ascii")
    except UnicodeError:
        raise InvalidBaseUrl(CodedText("url_host", "has a host name that is not valid")) from None
    if "%" in host or not host:
        raise InvalidBaseUrl(CodedText("url_host", "has a host name that is not valid"))
    if is_forbidden_host(host):
        raise ForbiddenAddress("has an address that no endpoint may have")
    if any(segment in (".", "..") for segment in parts.path.split("/")):
        raise InvalidBaseUrl(CodedText("url_dots", "must not have '.' or '..' in its path"))
    path = quote(parts.path.rstrip("/"), safe=_PATH_CHARACTERS)
    return BaseUrl(parts.scheme, host, port or _DEFAULT_PORTS[parts.scheme], path)


def is_forbidden_host(host: str) -> bool:
    """Whether `host` is a literal address that no endpoint may have, or a name of a metadata service."""
    try:
        return is_forbidden_address(host)
    except ValueError:
        return host.lower() in ("metadata.google.internal", "metadata", "instance-data")


def is_forbidden_address(text: str) -> bool:
    """Whether no endpoint may have this address. Raises ValueError if it is none."""
    return any(_is_forbidden(address) for address in _with_embedded(text))


def is_private_address(text: str) -> bool:
    """Whether the address belongs to this host or to a private network. Raises ValueError if it is none."""
    return any(not address.is_global for address in _with_embedded(text))


def is_loopback_host(host: str) -> bool:
    """Whether `host` is a literal loopback address or `localhost`."""
    try:
        return any(address.is_loopback for address in _with_embedded(host))
    except ValueError:
        return host.lower() == "localhost" or host.lower().endswith(".localhost")


def is_public_host(host: str) -> bool:
    """Whether `host` may belong to a service that bills: neither of this host nor of a private network."""
    try:
        return not is_private_address(host)
    except ValueError:
        # A name without a dot is one of the local network.
        return "." in host and not host.lower().endswith(_LOCAL_SUFFIXES)


def _with_embedded(text: str) -> list[IPv4Address | IPv6Address]:
    """Return an address, and the IPv4 address that is embedded in it."""
    address = ip_address(text.partition("%")[0])
    found: list[IPv4Address | IPv6Address] = [address]
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return [address.ipv4_mapped]
        if address.sixtofour is not None:
            found.append(address.sixtofour)
        if address.teredo is not None:
            found.extend(address.teredo)
        is_tunnel = int(address) >> 32 & 0xFFFFFFFF in _ISATAP
        if is_tunnel or any(address in network for network in _NAT64) or int(address) >> 32 == 0:
            found.append(IPv4Address(int(address) & 0xFFFFFFFF))
        if address == IPv6Address("::1"):
            return [address]
    return found


def _is_forbidden(address: IPv4Address | IPv6Address) -> bool:
    return (
        address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or address in _METADATA_ADDRESSES
        or (isinstance(address, IPv4Address) and (address in _THIS_NETWORK or int(address) == 0xFFFFFFFF))
    )
