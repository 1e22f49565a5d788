"""Anonymisation of text that is passed on, such as a support bundle.

Addresses, host names, names of people and home directories become numbered placeholders. The same text gets
the same number, so that a reader can still follow which lines belong together.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from llb.security.redaction import SecretRedactor

# Words that are the same on every host, or do not identify one.
_COMMON_NAMES = frozenset(
    {"admin", "cpu", "default", "home", "llb", "local", "localhost", "models", "node", "root", "server"}
    | {"system", "test", "user"}
)
_PUBLIC_HOSTS = frozenset({"huggingface.co", "pypi.org", "github.com", "localhost"})
MIN_NAME_CHARS = 3

_URL_HOST = re.compile(
    r"(?P<scheme>\b[a-z][a-z0-9+.-]{1,9}://)(?:[^\s/@\"'<>]*@)?(?P<host>\[[^\]\s]*\]|[^\s/:\"'<>)]+)"
)
# It matches at the start of a word: a long word without an @ would be searched from each character.
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_MAC = re.compile(r"(?<![\w:])[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}(?![\w:])")
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\d)")
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?:%\w+)?(?![\w:])")
# A bare name is one of a host if it ends as those of networks usually do.
_HOST_NAME = re.compile(
    r"(?<![\w./@-])(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+"
    r"(?:local|lan|home|internal|intranet|corp|localdomain|arpa|example|test|com|net|org|io|dev|ai|cloud|app"
    r"|eu|uk|de|fr|at|ch|it|es|nl|jp|cn|kr|us|ca|au|info)\b(?![\w/(-])"
)
_USER_DIRECTORY = re.compile(r"(?P<parent>/home/|/Users/|[A-Za-z]:\\Users\\)(?P<name>[^/\\\s\"':,;]+)")


class Anonymizer:
    """Removes secrets, and replaces identifiers of hosts and persons."""

    def __init__(self, redactor: SecretRedactor) -> None:
        self._redactor = redactor
        # Text in lower case → placeholder.
        self._placeholders: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        self._names: dict[str, str] = {}

    def register_names(self, kind: str, *names: str | None) -> None:
        """Replace these words by placeholders of a `kind`, such as "node", wherever they appear."""
        for name in names:
            if name and len(name) >= MIN_NAME_CHARS and name.lower() not in _COMMON_NAMES | _PUBLIC_HOSTS:
                self._names.setdefault(name.lower(), kind)

    def anonymize(self, text: str) -> str:
        """Return `text` without secrets, addresses and names."""
        text = self._redactor.redact(text)
        for pattern, replace in (
            (_URL_HOST, self._replace_url_host),
            (_EMAIL, lambda match: self._placeholder("email", match[0])),
            (_MAC, lambda match: self._placeholder("mac", match[0])),
            (_IPV6, self._replace_address),
            (_IPV4, self._replace_address),
            (_HOST_NAME, self._replace_host_name),
            (_USER_DIRECTORY, self._replace_user_directory),
        ):
            text = pattern.sub(replace, text)
        return self._replace_names(text)

    def _replace_names(self, text: str) -> str:
        if not self._names:
            return text
        longest_first = sorted(self._names, key=len, reverse=True)
        pattern = re.compile(
            rf"(?<![\w<-])(?:{'|'.join(map(re.escape, longest_first))})(?![\w>-])", re.IGNORECASE
        )
        return pattern.sub(lambda match: self._placeholder(self._names[match[0].lower()], match[0]), text)

    def _replace_url_host(self, match: re.Match[str]) -> str:
        host = match["host"]
        try:
            name = urlsplit(f"//{host}").hostname or host
        except ValueError:
            name = host
        return match["scheme"] + self._replace_host(name, host)

    def _replace_host(self, name: str, shown: str) -> str:
        address = _parse_address(name)
        if address is not None:
            return shown if _is_common(address) else self._placeholder("address", name)
        if name.lower() in _PUBLIC_HOSTS:
            return shown
        # It may also appear alone.
        self.register_names("host", name)
        return self._placeholder(self._names.get(name.lower(), "host"), name)

    def _replace_address(self, match: re.Match[str]) -> str:
        address = _parse_address(match[0])
        if address is None or _is_common(address):
            return match[0]
        return self._placeholder("address", match[0])

    def _replace_host_name(self, match: re.Match[str]) -> str:
        return self._replace_host(match[0], match[0])

    def _replace_user_directory(self, match: re.Match[str]) -> str:
        return match["parent"] + self._placeholder("person", match["name"])

    def _placeholder(self, kind: str, text: str) -> str:
        key = text.lower()
        if key not in self._placeholders:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self._placeholders[key] = f"<{kind}-{self._counts[kind]}>"
        return self._placeholders[key]


def _parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None


def _is_common(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether each host has this address."""
    return address.is_loopback or address.is_unspecified
