"""Proxy variables of the environment: those that the HTTP client of the Hub cannot use, and why."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import urlsplit

# In the order in which they apply to the Hub.
_VARIABLES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")
_USABLE_SCHEMES = ("http", "https")


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
            return f"{name} {reason}; set HTTPS_PROXY to an HTTP proxy (http://host:port) and unset {name}"
    return None


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
        return "is not the address of a proxy"
    if parts.scheme.lower().startswith("socks"):
        return f"is a SOCKS proxy ({parts.scheme}://…), which llb does not support"
    if parts.scheme.lower() not in _USABLE_SCHEMES or not is_valid or value != value.strip():
        return "is not the address of a proxy"
    return None
