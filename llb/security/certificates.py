"""Server certificate: from files of the user, or signed by this host's own authority (`--tls auto`)."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import logging
import re
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from llb.base import platform_compat
from llb.base.events import Topic
from llb.base.net_addresses import list_host_addresses
from llb.config import TLS_AUTO, Config
from llb.errors import SetupError
from llb.store.database import Database
from llb.store.tables import settings

# Imported where it is used: importing cryptography takes 70 ms.
if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

log = logging.getLogger(__name__)

# File in the home, mode 0600: the ssl module reads certificates from files only.
TLS_FILE_NAME = "tls.pem"
# Key in the database, so that a backup contains the identity of this host.
AUTHORITY_SETTING = "tls_authority"
AUTHORITY_DAYS = 30 * 365
# Apple's systems reject certificates with a longer life.
CERTIFICATE_DAYS = 397
RENEW_BEFORE_DAYS = 30
# The clocks of other hosts may be behind.
NOT_BEFORE_MARGIN = datetime.timedelta(days=1)
RENEWAL_CHECK_INTERVAL_S = 60.0
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class CertificateAuthority(Struct, frozen=True):
    """Certificate authority of this host, for its lifetime: certificate and private key in PEM."""

    certificate: str
    key: str


class _CertificateFiles(Struct, frozen=True):
    """Paths of the user's certificate chain and of its private key."""

    certificate: Path
    key: Path

    def modified_at(self) -> tuple[int, int]:
        """Return the modification times in nanoseconds. Raises OSError."""
        return self.certificate.stat().st_mtime_ns, self.key.stat().st_mtime_ns


class ServerTls:
    """TLS of this host's server: the SSL `context`, and the trust `anchor` by which clients verify it."""

    def __init__(self, config: Config) -> None:
        """Raise `SetupError` for a certificate without its key."""
        if (config.tls_cert is None) != (config.tls_key is None):
            raise SetupError("--tls-cert and --tls-key must be given together.")
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self.anchor = ""
        self.anchor_changed: Topic[()] = Topic()
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
        """Load the user's certificate, or issue one. Raises `SetupError`."""
        if self._files is not None:
            await asyncio.to_thread(self._load_files, self._files)
            return
        stored = await settings.get_or_create(
            db, AUTHORITY_SETTING, lambda: msgspec.json.encode(create_authority()).decode()
        )
        self._authority = msgspec.json.decode(stored, type=CertificateAuthority)
        self.anchor = self._authority.certificate
        await asyncio.to_thread(self._issue_certificate, self._authority)

    async def run_renewal(self) -> None:
        """Renew the certificate when necessary, until cancelled. Open connections are not affected."""
        while True:
            await asyncio.sleep(RENEWAL_CHECK_INTERVAL_S)
            try:
                await self._publishing_anchor(self.renew_if_needed)
            except (SetupError, OSError) as error:
                log.error("the certificate was not renewed: %s", error)

    async def reload(self) -> None:
        """Load the user's certificate again, changed or not; renew an issued one if that is necessary.

        Open connections are not affected. A pair that cannot be used is logged, and the one in use stays.
        """

        def load() -> None:
            if self._files is None:
                self.renew_if_needed()
                return
            self._load_files(self._files)
            log.info("the certificate was loaded again")

        try:
            await self._publishing_anchor(load)
        except (SetupError, OSError) as error:
            log.error("the certificate in use stays: %s", error)

    async def _publishing_anchor(self, change: Callable[[], None]) -> None:
        """Run `change` in a thread, then publish the anchor if it is another one."""
        previous = self.anchor
        await asyncio.to_thread(change)
        if self.anchor != previous:
            self.anchor_changed.publish()

    def renew_if_needed(self) -> None:
        """Renew a certificate that expires soon, names other addresses than the host has, or has changed on
        disk.

        Blocking. Raises `SetupError` and OSError.
        """
        if self._files is not None:
            if self._files.modified_at() != self._loaded_mtimes:
                self._load_files(self._files)
                log.info("the certificate was loaded again")
        elif self._authority is not None:
            remaining = self._expires_at - datetime.datetime.now(datetime.UTC)
            expires_soon = remaining < datetime.timedelta(days=RENEW_BEFORE_DAYS)
            # Issued while the clock was ahead: it is not valid yet.
            begins_later = remaining > datetime.timedelta(days=CERTIFICATE_DAYS) + NOT_BEFORE_MARGIN
            if expires_soon or begins_later or _server_names(self._config) != self._server_names:
                self._issue_certificate(self._authority)
                log.info("a new certificate was issued")

    def _load_files(self, files: _CertificateFiles) -> None:
        try:
            self._loaded_mtimes = files.modified_at()
            # First into another context: a broken pair must not replace a working one.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                files.certificate, files.key, _reject_key_password
            )
            self.context.load_cert_chain(files.certificate, files.key, _reject_key_password)
            match = _CERTIFICATE.search(files.certificate.read_text(encoding="ascii", errors="replace"))
        except OSError as error:
            # ssl.SSLError is an OSError, and has a reason.
            reason = getattr(error, "reason", None) or error.strerror or error
            raise SetupError(
                f"The certificate {files.certificate} with the key {files.key} cannot be used: {reason}."
            ) from None
        self.anchor = "" if match is None else match[0] + "\n"

    def _issue_certificate(self, authority: CertificateAuthority) -> None:
        names = _server_names(self._config)
        pem, expires_at = issue_certificate(authority, names)
        path = self._config.home / TLS_FILE_NAME
        platform_compat.write_private_file(path, pem)
        self.context.load_cert_chain(path)
        self._server_names, self._expires_at = names, expires_at


def _reject_key_password() -> str:
    raise SetupError("The key of --tls-key has a password: use a key without one.")


def _server_names(config: Config) -> tuple[str, ...]:
    """Return the host names and addresses for the certificate."""
    host = socket.gethostname().lower()
    names = ["localhost", "127.0.0.1", "::1", host, f"{host.partition('.')[0]}.local", *list_host_addresses()]
    # The port is that of a proxy.
    names += (re.sub(r":[0-9]+$|[][]", "", name) for name in config.allowed_hosts)
    if config.advertise is not None:
        names.append(re.sub(r"^\w+://|:\d+$|[][]", "", config.advertise))
    return tuple(dict.fromkeys(name for name in map(_ascii_name, names) if name))


def _ascii_name(name: str) -> str:
    """Return a host name as a certificate has it, empty for one that no certificate can have."""
    if name.isascii():
        return name
    try:
        return name.encode("idna").decode("ascii")
    except UnicodeError:
        return ""


def create_authority() -> CertificateAuthority:
    """Create a self-signed certificate authority for this host."""
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
    """Create a key and a certificate for `names`.

    Returns the key, the certificate and the authority's certificate as one PEM, and the expiry.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    issuer = x509.load_pem_x509_certificate(authority.certificate.encode())
    signer = serialization.load_pem_private_key(authority.key.encode(), password=None)
    # create_authority makes keys of this type only.
    assert isinstance(signer, ec.EllipticCurvePrivateKey)  # noqa: S101
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
    expires_at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=CERTIFICATE_DAYS)
    return pem.encode("ascii"), expires_at


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
    """Return the server's TLS, None for plain HTTP. Raises `SetupError`.

    A host that joins an llb over TLS uses TLS too, unless `config.tls` says otherwise.
    """
    joins_tls = config.join is not None and config.join.startswith("https:")
    is_configured = config.tls == TLS_AUTO or config.tls_cert is not None or config.tls_key is not None
    return ServerTls(config) if is_configured or (config.tls is None and joins_tls) else None
