"""Whom this host believes over TLS: what the system trusts, or one certificate that was told to it beforehand.

Hosts of one's own have no certificate that a browser would know, and are called by addresses that change. What tells one of them
from an impostor is a key: an *anchor* is a certificate (PEM) that is, or has signed, all that its host ever shows, and its
fingerprint travels in the join token.
"""

from __future__ import annotations

import base64
import hashlib
import ssl
from functools import lru_cache

SYSTEM_TRUST = ""  # in place of an anchor: whom this system trusts, by the name that was called
MAX_ANCHOR_CHARS = 16_384


@lru_cache(maxsize=256)
def get_client_context(anchor: str) -> ssl.SSLContext:
    """How to call whoever has the key of `anchor`, or with `SYSTEM` whoever proves the name. Raises `ValueError`."""
    if anchor == SYSTEM_TRUST:
        made = ssl.create_default_context()
    else:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.check_hostname = False
        made.verify_flags |= (
            ssl.VERIFY_X509_PARTIAL_CHAIN
        )  # of a certificate of its own, only that one is known
        try:
            made.load_verify_locations(cadata=_require_single_pem(anchor))
        except ssl.SSLError:
            raise ValueError("is not a certificate") from None
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    return made


def create_unverified_context() -> ssl.SSLContext:
    """How to call somebody whose certificate is asked for, before anything is believed or told."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    return made


def certificate_fingerprint(anchor: str) -> str:
    """SHA-256 of a certificate, in 43 characters that a command line takes as they are. Raises `ValueError`."""
    return base64.urlsafe_b64encode(_sha256_digest(anchor)).rstrip(b"=").decode("ascii")


def display_fingerprint(anchor: str) -> str:
    """The fingerprint of a certificate as browsers show it. Raises `ValueError`."""
    return _sha256_digest(anchor).hex(":").upper()


def _sha256_digest(anchor: str) -> bytes:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(_require_single_pem(anchor))).digest()


def _require_single_pem(anchor: str) -> str:
    if len(anchor) > MAX_ANCHOR_CHARS or anchor.count("-----BEGIN") != 1 or not anchor.isascii():
        raise ValueError("is not one certificate in PEM")
    return anchor.strip()
