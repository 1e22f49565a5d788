"""Check of the server certificate."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Iterator
from pathlib import Path

from llb.cli.checks import Finding, bad, ok, warn
from llb.config import Config
from llb.errors import SetupError
from llb.security.certificates import TLS_FILE_NAME, create_server_tls

EXPIRY_WARNING_DAYS = 14.0
DAY_S = 86_400.0


def check_certificate(config: Config, now: float) -> Iterator[Finding]:
    """Check that the certificate is usable and not about to expire. No finding without TLS."""
    try:
        if create_server_tls(config) is None:
            return
    except SetupError as error:
        yield bad("certificate", str(error), "give both flags, or neither")
        return
    if config.tls_cert is None or config.tls_key is None:
        yield from _check_generated_certificate(config.home / TLS_FILE_NAME)
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(config.tls_cert, config.tls_key, lambda: "")
        expires_at = _expiry_of(config.tls_cert)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        yield bad(
            "certificate",
            f"{config.tls_cert} with the key {config.tls_key} cannot be used: {reason}",
            "give a certificate and its key, both in PEM and without a password",
        )
        return
    remaining_days = (expires_at.timestamp() - now) / DAY_S
    detail = f"{config.tls_cert}, valid until {expires_at:%Y-%m-%d}"
    if remaining_days <= 0:
        yield bad(
            "certificate",
            f"{config.tls_cert} expired on {expires_at:%Y-%m-%d}",
            "renew it: llb reloads it automatically",
        )
    elif remaining_days < EXPIRY_WARNING_DAYS:
        yield warn("certificate", detail, "renew it: llb reloads it automatically")
    else:
        yield ok("certificate", detail)


def _check_generated_certificate(path: Path) -> Iterator[Finding]:
    if not path.exists():
        yield ok("certificate", "is created at the start, signed by a CA of this host")
        return
    try:
        yield ok(
            "certificate",
            f"of this host's CA, valid until {_expiry_of(path):%Y-%m-%d}; renewed automatically before",
        )
    except (OSError, ValueError) as error:
        yield bad("certificate", f"{path} cannot be read: {error}", "restart llb: it is created at the start")


def _expiry_of(path: Path) -> datetime.datetime:
    from cryptography import x509

    return x509.load_pem_x509_certificates(path.read_bytes())[0].not_valid_after_utc
