"""TLS trust: one pinned certificate in place of the system's authorities."""

from __future__ import annotations

import base64
import hashlib
import ssl

import pytest

from llb.security import tls_trust
from llb.security.certificates import create_authority


@pytest.fixture(scope="module")
def anchor() -> str:
    return create_authority().certificate


def test_a_pinned_certificate_is_the_only_one_and_its_name_does_not_matter(anchor: str) -> None:
    context = tls_trust.get_client_context(anchor)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert not context.check_hostname
    assert context.get_ca_certs(binary_form=True) == [ssl.PEM_cert_to_DER_cert(anchor)]
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert tls_trust.get_client_context(anchor) is context


def test_without_one_the_system_decides_and_the_name_counts() -> None:
    context = tls_trust.get_client_context(tls_trust.SYSTEM_TRUST)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_the_context_for_an_unknown_host_verifies_nothing() -> None:
    context = tls_trust.create_unverified_context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)


@pytest.mark.parametrize("kind", ["text", "two", "long", "not ascii", "broken"])
def test_what_is_not_one_certificate_is_no_anchor(anchor: str, kind: str) -> None:
    wrong = {
        "text": "nonsense",
        "two": anchor * 2,
        "long": anchor + " " * tls_trust.MAX_ANCHOR_CHARS,
        "not ascii": anchor + "é",
        "broken": anchor.replace("M", "!", 5),
    }[kind]
    with pytest.raises(ValueError, match=r"."):
        tls_trust.get_client_context(wrong)
    if kind != "broken":
        with pytest.raises(ValueError, match="single PEM"):
            tls_trust.certificate_fingerprint(wrong)


def test_a_fingerprint_is_that_of_the_bytes_and_fits_a_command_line(anchor: str) -> None:
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(anchor)).digest()
    short = tls_trust.certificate_fingerprint(anchor)
    assert base64.urlsafe_b64decode(short + "=") == digest
    assert len(short) == 43
    assert tls_trust.certificate_fingerprint(f"\n{anchor}\n") == short
    shown = tls_trust.display_fingerprint(anchor)
    assert bytes.fromhex(shown.replace(":", "")) == digest
    assert shown == shown.upper()
