"""Values of settings as text: one parser and, where `str` is not enough, one formatter of each kind.

A parser raises `ValueError` with a clause that follows the text, such as "is not a path such as /llb".
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from llb.base.units import format_duration, format_size, parse_duration, parse_size
from llb.texts.coded_text import CodedText

TLS_AUTO, TLS_OFF = "auto", "off"
MAX_DRAIN_TIMEOUT_S = 3600.0
MIN_BACKUP_INTERVAL_S = 60.0
_BASE_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")
_MAX_BASE_PATH_CHARS = 200
# A base path that begins like one of llb's own would hide it.
_OWN_PATHS = frozenset(
    {"access", "api", "assets", "docs", "health", "hop", "login", "metrics", "models", "nodes", "playground"}
    | {"readyz", "requests", "settings", "v1", "ws"}
)


def integer_between(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ValueError(CodedText("value_not_integer", "is not a whole number")) from None
        if not low <= value <= high:
            raise ValueError(
                CodedText("value_not_between", "is not between {low} and {high}", low=low, high=high)
            )
        return value

    return parse


def one_of(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(CodedText("value_not_one_of", "is not one of {names}", names=", ".join(allowed)))
        return text

    return parse


_SWITCH_VALUES = {
    "on": True,
    "true": True,
    "yes": True,
    "1": True,
    "off": False,
    "false": False,
    "no": False,
    "0": False,
}


def parse_switch(text: str) -> bool:
    value = _SWITCH_VALUES.get(text.lower())
    if value is None:
        raise ValueError(CodedText("value_not_switch", "is not on or off"))
    return value


def format_switch(value: bool) -> str:
    return "on" if value else "off"


def parse_hub_switch(text: str) -> bool:
    """Like the Hub's own library: what does not mean yes means no."""
    return text.strip().lower() in ("1", "on", "yes", "true")


def parse_hub_token(text: str) -> str | None:
    token = text.strip()
    if not re.fullmatch(r"[!#-&(-~]*", token):
        raise ValueError(
            CodedText(
                "value_no_token", "contains a blank, a quotation mark or another character that no token has"
            )
        )
    return token or None


def parse_positive_size(text: str) -> int:
    value = parse_size(text)
    if value <= 0:
        raise ValueError(CodedText("value_not_positive", "must be more than zero"))
    return value


def format_optional_size(value: int | None) -> str | None:
    return None if value is None else format_size(value)


def parse_rate(text: str) -> int | None:
    return None if text in ("0", "unlimited") else parse_positive_size(text.removesuffix("/s"))


def format_rate(value: int | None) -> str:
    return "unlimited" if value is None else f"{format_size(value)}/s"


def parse_drain_timeout(text: str) -> float:
    value = parse_duration(text)
    if not 0 <= value <= MAX_DRAIN_TIMEOUT_S:
        raise ValueError("is not between 0 and 1h")
    return value


def parse_backup_interval(text: str) -> float | None:
    if text == "off":
        return None
    value = parse_duration(text)
    if value < MIN_BACKUP_INTERVAL_S:
        raise ValueError("is less than a minute; off means no automatic backups")
    return value


def format_backup_interval(value: float | None) -> str:
    return "off" if value is None else format_duration(value)


def parse_positive_duration(text: str) -> float:
    value = parse_duration(text)
    if value <= 0:
        raise ValueError(CodedText("value_not_positive", "must be more than zero"))
    return value


def format_secret(value: str | None) -> str:
    return "not set" if value is None else "set"


NODE_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def parse_node_name(text: str) -> str:
    if not NODE_NAME_PATTERN.fullmatch(text):
        raise ValueError("must consist of at most 63 letters, digits, '.', '_' or '-'")
    return text


def _split_url(text: str) -> SplitResult | None:
    """Return the parts of an HTTP URL with a host; None if it is none, or its port cannot be one."""
    try:
        parts = urlsplit(text)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if is_valid else None


def parse_base_url(text: str) -> str:
    parts = _split_url(text)
    if parts is None or parts.query or parts.fragment:
        raise ValueError("is not a URL such as http://host:8080")
    return text.rstrip("/")


def parse_llb_url(text: str) -> str:
    """Return scheme, host and port of an llb; the host in lower case, so that one address has one text."""
    parts = _split_url(text)
    if parts is None or parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("is not the address of an llb, such as http://host:8080")
    return f"{parts.scheme}://{parts.netloc.lower()}"


def format_url(value: str) -> str:
    """Return the URL without its user name and password."""
    parts = urlsplit(value)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def parse_list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def format_list(values: tuple[str, ...]) -> str | None:
    return ", ".join(values) or None


def parse_networks(text: str) -> tuple[str, ...]:
    networks = []
    for part in parse_list(text):
        try:
            networks.append(str(ipaddress.ip_network(part, strict=False)))
        except ValueError:
            raise ValueError(f"contains '{part}', which is not an address or a network") from None
    return tuple(networks)


def parse_base_path(text: str) -> str:
    """Return a path such as `/llb`, without a slash at its end; `/` is empty. Raises `ValueError`."""
    path = text.removesuffix("/")
    parts = path.split("/")[1:]
    if len(path) > _MAX_BASE_PATH_CHARS or not _BASE_PATH.fullmatch(path) or {".", ".."} & {*parts}:
        raise ValueError("is not a path such as /llb")
    return path


def parse_own_base_path(text: str) -> str:
    path = parse_base_path(text)
    if path.split("/")[1:2] and path.split("/")[1] in _OWN_PATHS:
        raise ValueError("begins with an address of llb itself; choose another, such as /llb")
    return path


def parse_path(text: str) -> Path:
    if not text:
        raise ValueError("is empty")
    if "\0" in text:
        raise ValueError("contains a character that no path may have")
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise ValueError("begins with ~, but this user has no home directory") from None
