"""TLS trust: the system's certificate authorities, or one pinned certificate as the trust anchor.

Hosts of a private network have no certificate that a public authority signed, and their addresses change. A
trust *anchor* is a certificate (PEM) that is, or has signed, each certificate that its host ever presents.
The join token carries its fingerprint, and so authenticates the balancer to a new node.
"""

from __future__ import annotations

import base64
import hashlib
import ssl
from functools import lru_cache

# Used in place of an anchor: the system's authorities are trusted, and the host name is checked.
SYSTEM_TRUST = ""
MAX_ANCHOR_CHARS = 16_384


@lru_cache(maxsize=256)
def get_client_context(anchor: str) -> ssl.SSLContext:
    """Return the client context for a host with `anchor`, whatever its name, or for `SYSTEM_TRUST`.

    Raises ValueError if `anchor` is not one certificate.
    """
    if anchor == SYSTEM_TRUST:
        context = ssl.create_default_context()
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        # The anchor may be the server's own certificate, whose issuer is not known here.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        try:
            context.load_verify_locations(cadata=_require_single_pem(anchor))
        except ssl.SSLError:
            raise ValueError("is not a certificate") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def create_unverified_context() -> ssl.SSLContext:
    """Return a client context that verifies nothing, to fetch the certificate of an unknown host."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def certificate_fingerprint(anchor: str) -> str:
    """Return the SHA-256 of a certificate in 43 base64url characters, safe on a command line.

    Raises ValueError.
    """
    return base64.urlsafe_b64encode(_sha256_digest(anchor)).rstrip(b"=").decode("ascii")


def display_fingerprint(anchor: str) -> str:
    """Return the SHA-256 of a certificate as browsers show it. Raises ValueError."""
    return _sha256_digest(anchor).hex(":").upper()


def _sha256_digest(anchor: str) -> bytes:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(_require_single_pem(anchor))).digest()


def _require_single_pem(anchor: str) -> str:
    if len(anchor) > MAX_ANCHOR_CHARS or anchor.count("-----BEGIN") != 1 or not anchor.isascii():
        raise ValueError("is not a single PEM certificate")
    return anchor.strip()
