"""Certificates of this host: names, renewal, files of the user."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from msgspec import structs

from llb.config import make_config
from llb.errors import SetupError
from llb.security import certificates
from llb.security.certificates import (
    CERTIFICATE_DAYS,
    RENEW_BEFORE_DAYS,
    TLS_FILE_NAME,
    CertificateAuthority,
    ServerTls,
    create_authority,
    create_server_tls,
    issue_certificate,
)
from llb.store.database import Database

DAY = datetime.timedelta(days=1)


@pytest.fixture(scope="module")
def authority() -> CertificateAuthority:
    return create_authority()


@pytest.fixture(autouse=True)
def host_addresses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses of this host, which the test may change."""
    addresses = ["10.0.0.7", "fe80::7"]
    monkeypatch.setattr(certificates, "list_host_addresses", lambda: [*addresses])
    monkeypatch.setattr("llb.security.certificates.socket.gethostname", lambda: "Attic.lan")
    return addresses


def names_in(path: Path) -> set[str]:
    """Names of the first certificate in a file."""
    [certificate, *_] = x509.load_pem_x509_certificates(path.read_bytes())
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return {str(name.value) for name in extension.value}


async def started(home: Path, **settings: Any) -> ServerTls:
    tls = ServerTls(make_config(home=home, **settings))
    db = await Database.open(home / "llb.db")
    try:
        await tls.start(db)
    finally:
        await db.close()
    return tls


def write_pair(directory: Path, authority: CertificateAuthority, names: tuple[str, ...]) -> dict[str, Path]:
    pem = issue_certificate(authority, names)[0].decode()
    key, _, chain = pem.partition("-----BEGIN CERTIFICATE-----")
    (directory / "key.pem").write_text(key)
    (directory / "cert.pem").write_text("-----BEGIN CERTIFICATE-----" + chain)
    return {"tls_cert": directory / "cert.pem", "tls_key": directory / "key.pem"}


def test_a_certificate_is_of_its_authority_and_for_servers(authority: CertificateAuthority) -> None:
    pem, expires_at = issue_certificate(authority, ("attic", "10.0.0.7"))
    certificate, issuer = x509.load_pem_x509_certificates(pem)
    certificate.verify_directly_issued_by(issuer)
    assert abs(expires_at - certificate.not_valid_after_utc) < datetime.timedelta(minutes=1)
    # Apple's systems reject a longer life; the clocks of other hosts may be behind.
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert life == CERTIFICATE_DAYS * DAY + certificates.NOT_BEFORE_MARGIN
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    constraints = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)


async def test_an_issued_certificate_names_every_address_of_the_host(tmp_path: Path) -> None:
    await started(
        tmp_path,
        allowed_hosts=("llb.example", "llb.example:8443", "[fd00::1]:8443", "bücher.example", "\ud800.x"),
        advertise="https://public.example:8443",
    )
    assert names_in(tmp_path / TLS_FILE_NAME) == {
        "localhost", "127.0.0.1", "::1", "attic.lan", "attic.local", "10.0.0.7", "fe80::7",
        "llb.example", "fd00::1", "xn--bcher-kva.example", "public.example",
    }  # fmt: skip
    assert (tmp_path / TLS_FILE_NAME).stat().st_mode & 0o777 == 0o600


async def test_the_authority_stays_over_restarts(tmp_path: Path) -> None:
    first, second = await started(tmp_path), await started(tmp_path)
    assert first.anchor == second.anchor
    assert first.anchor.startswith("-----BEGIN CERTIFICATE-----")


async def test_a_certificate_is_renewed_when_it_must_and_not_before(
    tmp_path: Path, host_addresses: list[str]
) -> None:
    tls = await started(tmp_path)
    path = tmp_path / TLS_FILE_NAME

    def is_renewed() -> bool:
        before = path.read_bytes()
        tls.renew_if_needed()
        return path.read_bytes() != before

    assert not is_renewed()
    now = datetime.datetime.now(datetime.UTC)
    minute = datetime.timedelta(minutes=1)
    for expires_at, renewed in (
        (now + RENEW_BEFORE_DAYS * DAY + minute, False),
        (now + RENEW_BEFORE_DAYS * DAY - minute, True),
        # Issued while the clock was ahead: it is not valid yet.
        (now + CERTIFICATE_DAYS * DAY + certificates.NOT_BEFORE_MARGIN - minute, False),
        (now + CERTIFICATE_DAYS * DAY + certificates.NOT_BEFORE_MARGIN + minute, True),
    ):
        tls._expires_at = expires_at
        assert is_renewed() is renewed
    host_addresses.append("10.0.0.8")
    assert is_renewed()
    assert "10.0.0.8" in names_in(path)
    assert not is_renewed()


async def test_files_of_the_user_are_loaded_again_when_they_change(
    tmp_path: Path, authority: CertificateAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    tls = await started(tmp_path, **write_pair(tmp_path, authority, ("attic",)))
    anchors: list[str] = []
    tls.anchor_changed.subscribe(lambda: anchors.append(tls.anchor))
    assert ssl.PEM_cert_to_DER_cert(tls.anchor)
    tls.renew_if_needed()
    first = tls.anchor
    write_pair(tmp_path, authority, ("attic",))
    await tls.reload()
    assert anchors == [tls.anchor]
    assert tls.anchor != first
    # A key of another pair: the one in use stays.
    second = tls.anchor
    (tmp_path / "key.pem").write_text(authority.key)
    await tls.reload()
    assert "the certificate in use stays: The certificate " in caplog.text
    assert (tls.anchor, len(anchors)) == (second, 1)
    with pytest.raises(SetupError):
        tls._load_files(tls._files)  # type: ignore[arg-type]


@pytest.mark.parametrize("broken", ["cert.pem", "key.pem"])
async def test_a_pair_that_cannot_be_used_stops_the_start(
    tmp_path: Path, authority: CertificateAuthority, broken: str
) -> None:
    files = write_pair(tmp_path, authority, ("attic",))
    (tmp_path / broken).write_text("nonsense")
    with pytest.raises(SetupError, match=r"^The certificate .* cannot be used: "):
        await started(tmp_path, **files)
    (tmp_path / broken).unlink()
    with pytest.raises(SetupError, match="No such file"):
        await started(tmp_path, **files)


@pytest.mark.parametrize(
    ("settings", "has_tls"),
    [
        ({}, False),
        ({"tls": "auto"}, True),
        ({"tls": "off"}, False),
        ({"join": "https://attic:8080"}, True),
        ({"join": "http://attic:8080"}, False),
        # Behind a proxy that speaks TLS.
        ({"join": "https://attic:8080", "tls": "off"}, False),
        ({"tls_cert": "/c", "tls_key": "/k", "tls": "off"}, True),
    ],
)
def test_who_speaks_tls(tmp_path: Path, settings: dict[str, Any], has_tls: bool) -> None:
    assert (create_server_tls(make_config(home=tmp_path, **settings)) is not None) is has_tls


def test_one_file_without_the_other(tmp_path: Path) -> None:
    config = make_config(home=tmp_path, tls_cert=tmp_path / "c")
    for half in (config, structs.replace(config, tls_cert=None, tls_key=tmp_path / "k")):
        with pytest.raises(SetupError, match="must be given together"):
            create_server_tls(half)
