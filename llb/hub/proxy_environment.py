"""Proxy variables of the environment, and those that the HTTP client of the Hub cannot use."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from llb.texts.coded_text import CodedText

# Variables in the order in which they apply to the Hub.
_ALL_PROXY = "ALL_PROXY"
_VARIABLES = ("HTTPS_PROXY", "HTTP_PROXY", _ALL_PROXY)
_USABLE_SCHEMES = ("http", "https")
_NO_ADDRESS = CodedText("proxy_no_address", "is not the address of a proxy")


def find_unusable_proxy(environ: Mapping[str, str] | None = None) -> str | None:
    """Return a clause that names a variable which cannot be used; None if all can.

    A variable for other schemes counts too: the HTTP client reads all of them. Passwords are not shown.
    """
    environ = os.environ if environ is None else environ
    if any(host.strip() == "*" for host in _value_of("NO_PROXY", environ)[1].split(",")):
        return None
    for variable in _VARIABLES:
        name, value = _value_of(variable, environ)
        if value and (reason := _reason_against(value)) is not None:
            if variable == _ALL_PROXY and _names_proxy_for_each_scheme(environ):
                continue
            return CodedText(
                "proxy_not_usable",
                "{name} {cause}; set HTTPS_PROXY to an HTTP proxy (http://host:port) and unset {name}",
                name=name,
                cause=reason,
            )
    return None


def find_proxy_map(environ: Mapping[str, str] | None = None) -> dict[str, str | None] | None:
    """Return proxies by the URL patterns of the HTTP client, where it must not read ALL_PROXY itself.

    None where it may read all variables: that is the usual case. A pattern without a proxy is from NO_PROXY.
    """
    environ = os.environ if environ is None else environ
    value = _value_of(_ALL_PROXY, environ)[1]
    if not value or _reason_against(value) is None or find_unusable_proxy(environ) is not None:
        return None
    hosts = [host.strip() for host in _value_of("NO_PROXY", environ)[1].split(",") if host.strip()]
    if "*" in hosts:
        return {}
    proxies: dict[str, str | None] = {}
    for scheme in ("http", "https"):
        proxy = _value_of(f"{scheme.upper()}_PROXY", environ)[1]
        proxies[f"{scheme}://"] = proxy if "://" in proxy else f"http://{proxy}"
    return proxies | dict.fromkeys(map(_bypass_pattern, hosts))


def _bypass_pattern(host: str) -> str:
    """Return the pattern of a host in NO_PROXY: an address as it is, a name with its subdomains."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return f"all://{host}" if host.lower() == "localhost" else f"all://*{host}"
    return f"all://[{address}]" if address.version == 6 else f"all://{address}"


def _names_proxy_for_each_scheme(environ: Mapping[str, str]) -> bool:
    """Whether ALL_PROXY is for other schemes than those of the web, as in the settings of desktop proxies."""
    return all(_value_of(name, environ)[1] for name in ("HTTPS_PROXY", "HTTP_PROXY"))


def _value_of(variable: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """Return name and value; the lower-case name has precedence, as in other programs."""
    for name in (variable.lower(), variable):
        if environ.get(name):
            return name, environ[name]
    return variable, ""


def _reason_against(value: str) -> str | None:
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        is_valid = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return _NO_ADDRESS
    if parts.scheme.lower().startswith("socks"):
        return CodedText(
            "proxy_is_socks",
            "is a SOCKS proxy ({scheme}://…), which llb does not support",
            scheme=parts.scheme,
        )
    if parts.scheme.lower() not in _USABLE_SCHEMES or not is_valid or value != value.strip():
        return _NO_ADDRESS
    return None
