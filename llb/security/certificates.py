"""The certificate that this host shows: of its owner's, or signed by an authority of its own (`--tls auto`)."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import logging
import re
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from llb.base import platform_compat
from llb.base.net_addresses import list_host_addresses
from llb.config import TLS_AUTO, Config
from llb.errors import SetupError
from llb.store.database import Database
from llb.store.tables import settings

if TYPE_CHECKING:  # at run time where a certificate is made: it takes 70 ms to import
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

log = logging.getLogger(__name__)

TLS_FILE_NAME = "tls.pem"  # in the home, 0600: what the TLS library reads
AUTHORITY_SETTING = "tls_authority"  # in the database: a backup takes along who this host is
AUTHORITY_DAYS = 30 * 365
# Apple's systems believe no certificate of a longer life.
CERTIFICATE_DAYS = 397
RENEW_BEFORE_DAYS = 30
NOT_BEFORE_MARGIN = datetime.timedelta(days=1)  # clocks of other hosts may be behind
RENEWAL_CHECK_INTERVAL_S = 60.0
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class CertificateAuthority(Struct, frozen=True):
    """Who signs this host's certificates for as long as it lives; both in PEM."""

    certificate: str
    key: str


@dataclass(frozen=True)
class _CertificateFiles:
    """The owner's own certificate: with all that stands above it in one file, and the key in another."""

    certificate: Path
    key: Path

    def modified_at(self) -> tuple[int, int]:
        return self.certificate.stat().st_mtime_ns, self.key.stat().st_mtime_ns


class ServerTls:
    """What this host's server shows. `context` is the server's; `anchor` is by what others may know this host."""

    def __init__(self, config: Config) -> None:
        """Raises `SetupError` for a certificate without its key."""
        if (config.tls_cert is None) != (config.tls_key is None):
            raise SetupError("--tls-cert and --tls-key belong together: give both.")
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self.anchor = ""
        self.is_own_authority = config.tls_cert is None
        self._config = config
        self._files = (
            None
            if config.tls_cert is None or config.tls_key is None
            else _CertificateFiles(config.tls_cert, config.tls_key)
        )
        self._authority: CertificateAuthority | None = None
        self._expires_at = datetime.datetime.min.replace(tzinfo=datetime.UTC)
        self._server_names: tuple[str, ...] = ()
        self._loaded_mtimes: tuple[int, int] = (0, 0)

    async def start(self, db: Database) -> None:
        """Have a certificate. Raises `SetupError`."""
        if self._files is not None:
            await asyncio.to_thread(self._load_files, self._files)
            return
        made = await settings.ensure(
            db, AUTHORITY_SETTING, lambda: msgspec.json.encode(create_authority()).decode()
        )
        self._authority = msgspec.json.decode(made, type=CertificateAuthority)
        self.anchor = self._authority.certificate
        await asyncio.to_thread(self._issue_certificate, self._authority)

    async def run_renewal(self) -> None:
        """Until cancelled: show a new certificate before the old one ends, has other addresses to name, or was replaced by the
        owner. Connections that stand are not disturbed."""
        while True:
            await asyncio.sleep(RENEWAL_CHECK_INTERVAL_S)
            try:
                await asyncio.to_thread(self.renew_if_needed)
            except (SetupError, OSError) as error:
                log.error("the certificate stays as it was: %s", error)

    def renew_if_needed(self) -> None:
        """Once of what `keep` does. Blocking; raises `SetupError` and `OSError`."""
        if self._files is not None:
            if self._files.modified_at() != self._loaded_mtimes:
                self._load_files(self._files)
                log.info("the certificate was read anew")
        elif self._authority is not None:
            left = self._expires_at - datetime.datetime.now(datetime.UTC)
            if (
                left < datetime.timedelta(days=RENEW_BEFORE_DAYS)
                or _server_names(self._config) != self._server_names
            ):
                self._issue_certificate(self._authority)
                log.info("a new certificate was made")

    def _load_files(self, files: _CertificateFiles) -> None:
        try:
            self._loaded_mtimes = files.modified_at()
            # First into another: half of a new pair must not replace a whole one.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                files.certificate, files.key, _reject_key_password
            )
            self.context.load_cert_chain(files.certificate, files.key, _reject_key_password)
            found = _CERTIFICATE.search(files.certificate.read_text(encoding="ascii", errors="replace"))
        except OSError as error:  # ssl.SSLError is one, too
            reason = getattr(error, "reason", None) or error.strerror or error
            raise SetupError(
                f"The certificate {files.certificate} with the key {files.key} cannot be used: {reason}."
            ) from None
        self.anchor = "" if found is None else found[0] + "\n"

    def _issue_certificate(self, authority: CertificateAuthority) -> None:
        names = _server_names(self._config)
        pem, until = issue_certificate(authority, names)
        path = self._config.home / TLS_FILE_NAME
        platform_compat.write_private_file(path, pem)
        self.context.load_cert_chain(path)
        self._server_names, self._expires_at = names, until


def _reject_key_password() -> str:
    raise SetupError("The key of --tls-key has a password: give one without.")


def _server_names(config: Config) -> tuple[str, ...]:
    """What this host may be called by."""
    host = socket.gethostname().lower()
    found = ["localhost", "127.0.0.1", "::1", host, f"{host.partition('.')[0]}.local", *list_host_addresses()]
    found += config.allowed_hosts
    if config.advertise is not None:
        found.append(re.sub(r"^\w+://|:\d+$|[][]", "", config.advertise))
    return tuple(dict.fromkeys(name for name in found if name))


def create_authority() -> CertificateAuthority:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"llb of {socket.gethostname()}"[:64])])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _certificate_builder(subject, subject, key.public_key(), AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )
    return CertificateAuthority(_sign_to_pem(certificate, key), _key_to_pem(key))


def issue_certificate(
    authority: CertificateAuthority, names: tuple[str, ...]
) -> tuple[bytes, datetime.datetime]:
    """A new key and a certificate for `names`, with the authority's in one PEM; and when it ends."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    issuer = x509.load_pem_x509_certificate(authority.certificate.encode())
    signer = serialization.load_pem_private_key(authority.key.encode(), password=None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)  # noqa: S101  # new_authority made it
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, socket.gethostname()[:64])])
    certificate = (
        _certificate_builder(subject, issuer.subject, key.public_key(), CERTIFICATE_DAYS)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    pem = _key_to_pem(key) + _sign_to_pem(certificate, signer) + authority.certificate
    return pem.encode("ascii"), datetime.datetime.now(datetime.UTC) + datetime.timedelta(
        days=CERTIFICATE_DAYS
    )


def _certificate_builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    from cryptography import x509

    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - NOT_BEFORE_MARGIN)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _general_name(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _sign_to_pem(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> str:
    from cryptography.hazmat.primitives import hashes, serialization

    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode("ascii")


def _key_to_pem(key: ec.EllipticCurvePrivateKey) -> str:
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode("ascii")


def create_server_tls(config: Config) -> ServerTls | None:
    """None where the server speaks plain HTTP. A host that joins an llb with TLS has it without being told. Raises `SetupError`."""
    joins_tls = config.join is not None and config.join.startswith("https:")
    wanted = config.tls == TLS_AUTO or config.tls_cert is not None or config.tls_key is not None
    return ServerTls(config) if wanted or (config.tls is None and joins_tls) else None
