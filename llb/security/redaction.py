"""Redaction of provider keys in logs, errors, history and audit.

Exact secrets are known, because they were decrypted here or read from the environment. Common forms of
credentials are redacted, too: an endpoint may quote one that is not this llb's.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from urllib.parse import quote

REDACTED = "[redacted]"
# A shorter text would be found in ordinary words.
MIN_SECRET_CHARS = 6
_CREDENTIAL_FORMS = re.compile(
    r"(?<![A-Za-z0-9])(?:sk-[A-Za-z0-9_-]{16,}|AIza[A-Za-z0-9_-]{30,}|llb(?:[jn]|-local)-[A-Za-z0-9_-]{16,}"
    r"|hf_[A-Za-z0-9]{20,}|gsk_[A-Za-z0-9]{20,}|xai-[A-Za-z0-9]{20,})"
    r"|(?i:\b(?:bearer|x-api-key|x-goog-api-key|api-key)\b[\"']?[ :=]+[\"']?)([^\s\"',;}]{8,})"
)


class SecretRedactor:
    """Removes the registered secrets, and what looks like a credential, from text."""

    def __init__(self) -> None:
        self._forms: dict[str, int] = {}
        self._pattern: re.Pattern[str] | None = None

    def register(self, *secrets: str | None) -> None:
        """Redact these secrets from now on; they stay registered, since an old log line may come late."""
        for secret in secrets:
            for form in _forms_of(secret or ""):
                self._forms[form] = len(form)
        longest_first = sorted(self._forms, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def redact(self, text: str) -> str:
        """Return `text` without secrets."""
        if self._pattern is not None:
            text = self._pattern.sub(REDACTED, text)
        return _CREDENTIAL_FORMS.sub(_redact_match, text)


class RedactingFormatter(logging.Formatter):
    """Formatter that redacts the finished line of another one, with its traceback."""

    def __init__(self, inner: logging.Formatter, redactor: SecretRedactor) -> None:
        super().__init__()
        self._inner = inner
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        return self._redactor.redact(self._inner.format(record))


def redact_logs(redactor: SecretRedactor, handlers: Iterable[logging.Handler]) -> None:
    """Redact the output of `handlers`."""
    for handler in handlers:
        if not isinstance(handler.formatter, RedactingFormatter):
            handler.setFormatter(RedactingFormatter(handler.formatter or logging.Formatter(), redactor))


def _forms_of(secret: str) -> set[str]:
    """Forms of a secret in text: itself, in a URL, in JSON."""
    if len(secret) < MIN_SECRET_CHARS:
        return set()
    escaped = secret.replace("\\", "\\\\").replace('"', '\\"')
    return {secret, quote(secret, safe=""), quote(secret), escaped}


def _redact_match(match: re.Match[str]) -> str:
    credential = match.group(1)
    return REDACTED if credential is None else match.group(0).removesuffix(credential) + REDACTED
