"""Encryption of provider keys at rest: AES-256-GCM under a key file next to the database.

A database without its key file, such as a copy or a backup, discloses no provider key. The file does not
protect against a process that may read both.

Format of a sealed secret: `llb1:<key id>:<base64url of nonce, ciphertext and tag>`. The associated data are
table, row id and base URL, so that a row whose address was changed in the database does not decrypt: a key
is only ever sent to the address that it was entered for.

The key file holds one line per key, the active one first; during a rotation it holds two.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

import msgspec
from msgspec import Struct

from llb.base import platform_compat
from llb.texts.coded_text import CodedText

KEY_FILE_NAME = "secrets.key"
FORMAT_PREFIX = "llb1"
KEY_BYTES, NONCE_BYTES, TAG_BYTES = 32, 12, 16
# A provider key is some 200 characters at most; a service account in JSON about 3 KB.
MAX_SECRET_CHARS = 16_384
_FILE_PREFIX = "llb-secrets-1:"
_KEY_ID_CHARS = 8
_LOCK_ATTEMPTS, _LOCK_RETRY_DELAY_S = 100, 0.05
_SHOWN_CHARS = 4


class SecretFault(StrEnum):
    """Why a sealed secret cannot be read."""

    KEY_FILE_MISSING = "key_file_missing"
    KEY_FILE_BROKEN = "key_file_broken"
    WRONG_KEY = "wrong_key"
    ADDRESS_CHANGED = "address_changed"
    MALFORMED = "malformed"


class SecretUnreadable(Exception):
    """A stored secret cannot be decrypted; the message is one sentence with the remedy, for its row only."""

    def __init__(self, fault: SecretFault, message: str) -> None:
        super().__init__(message)
        self.fault = fault
        self.message = message


class SecretOwner(Struct, frozen=True):
    """Row that a sealed secret belongs to, and the only address that it may be sent to."""

    table: str
    row_id: str
    base_url: str

    @property
    def associated_data(self) -> bytes:
        # JSON, so that no two owners have the same bytes.
        return msgspec.json.encode([FORMAT_PREFIX, self.table, self.row_id, self.base_url])


class SealedSecret(Struct, frozen=True):
    """Sealed secret of one row."""

    owner: SecretOwner
    sealed: str


def last_four(secret: str) -> str:
    """Return the last four characters, which identify a secret in lists; fewer of a short one."""
    return secret[-_SHOWN_CHARS:] if len(secret) >= 4 * _SHOWN_CHARS else ""


class SecretBox:
    """Seals and opens secrets with the keys of one key file, which the first sealing makes.

    `seal` must run inside the write transaction that stores the result: a rotation re-encrypts what was
    committed before it, and drops the old key after.
    """

    def __init__(self, key_file: Path) -> None:
        self._path = key_file
        self._keys: list[bytes] = []

    @property
    def key_file(self) -> Path:
        return self._path

    def seal(self, secret: str, owner: SecretOwner) -> str:
        """Encrypt `secret` for `owner`. Raises `SecretUnreadable` for a broken key file, OSError."""
        if not 0 < len(secret) <= MAX_SECRET_CHARS:
            raise ValueError("a secret has between 1 and 16384 characters")
        # Read again every time: another process may have rotated the key.
        return _seal(self._load_or_create()[0], secret, owner)

    def open(self, sealed: str, owner: SecretOwner) -> str:
        """Decrypt a sealed secret of `owner`. Raises `SecretUnreadable`."""
        # Imported when a secret is there: it takes 6 MB of memory.
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        key_id, data = _parse(sealed)
        key = self._key_of(key_id)
        try:
            plain = AESGCM(key).decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], owner.associated_data)
        except InvalidTag:
            raise SecretUnreadable(
                SecretFault.ADDRESS_CHANGED,
                CodedText(
                    "secret_other_address",
                    "The stored key does not belong to this address: enter the key again.",
                ),
            ) from None
        return plain.decode()

    def begin_rotation(self) -> None:
        """Make a new active key; the old ones stay in the file until `end_rotation`. Raises OSError."""
        with _FileGuard(self._path):
            old = self._read() if self._path.exists() else []
            self._write([secrets.token_bytes(KEY_BYTES), *old])

    def reseal(self, rows: Iterable[SealedSecret]) -> tuple[list[SealedSecret], list[SecretOwner]]:
        """Encrypt `rows` under the active key; returns them and the owners whose secret cannot be read."""
        active = self._load_or_create()[0]
        resealed: list[SealedSecret] = []
        unreadable: list[SecretOwner] = []
        for row in rows:
            try:
                resealed.append(
                    SealedSecret(row.owner, _seal(active, self.open(row.sealed, row.owner), row.owner))
                )
            except SecretUnreadable:
                unreadable.append(row.owner)
        return resealed, unreadable

    def end_rotation(self) -> None:
        """Drop all keys but the active one, after the re-encrypted rows were committed. Raises OSError."""
        with _FileGuard(self._path):
            self._write(self._read()[:1])

    def _key_of(self, key_id: str) -> bytes:
        for key in self._keys:
            if _key_id(key) == key_id:
                return key
        for key in self._read():
            if _key_id(key) == key_id:
                return key
        raise SecretUnreadable(
            SecretFault.WRONG_KEY,
            CodedText(
                "secret_other_key_file",
                "The stored key was encrypted with another key file than {file}: restore that file, "
                "or enter the key again.",
                file=self._path.name,
            ),
        )

    def _load_or_create(self) -> list[bytes]:
        if not self._path.exists():
            with _FileGuard(self._path):
                # Another process may have made it meanwhile.
                if not self._path.exists():
                    self._write([secrets.token_bytes(KEY_BYTES)])
        return self._read()

    def _read(self) -> list[bytes]:
        try:
            text = self._path.read_bytes()
            _restrict_mode(self._path)
        except FileNotFoundError:
            raise SecretUnreadable(
                SecretFault.KEY_FILE_MISSING,
                CodedText(
                    "secret_no_key_file",
                    "The key file {file} beside the database is missing: restore it, or enter the key again.",
                    file=self._path.name,
                ),
            ) from None
        except OSError as error:
            raise SecretUnreadable(
                SecretFault.KEY_FILE_BROKEN,
                CodedText(
                    "secret_unreadable_key_file",
                    "The key file {file} cannot be read ({cause}).",
                    file=self._path.name,
                    cause=error.strerror or "unknown error",
                ),
            ) from None
        self._keys = [_decode_key(line, self._path) for line in text.split() or [b""]]
        return self._keys

    def _write(self, keys: list[bytes]) -> None:
        lines = [f"{_FILE_PREFIX}{base64.urlsafe_b64encode(key).decode()}\n" for key in keys]
        platform_compat.write_private_file(self._path, "".join(lines).encode())
        self._keys = keys


class _FileGuard:
    """Lock of the key file between processes, while it is made or changed."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f"{path.name}.lock")
        self._lock: platform_compat.FileLock | None = None

    def __enter__(self) -> None:
        for _ in range(_LOCK_ATTEMPTS):
            self._lock = platform_compat.try_lock_file(self._path)
            if self._lock is not None:
                return
            time.sleep(_LOCK_RETRY_DELAY_S)
        raise TimeoutError(f"{self._path.name} is locked by another process")

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()


def _seal(key: bytes, secret: str, owner: SecretOwner) -> str:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = secrets.token_bytes(NONCE_BYTES)
    data = nonce + AESGCM(key).encrypt(nonce, secret.encode(), owner.associated_data)
    return f"{FORMAT_PREFIX}:{_key_id(key)}:{base64.urlsafe_b64encode(data).decode()}"


def _parse(sealed: str) -> tuple[str, bytes]:
    prefix, _, rest = sealed.partition(":")
    key_id, _, encoded = rest.partition(":")
    try:
        data = base64.b64decode(encoded.encode(), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        data = b""
    if prefix != FORMAT_PREFIX or len(data) <= NONCE_BYTES + TAG_BYTES:
        raise SecretUnreadable(
            SecretFault.MALFORMED,
            CodedText("secret_unknown_format", "The stored key has an unknown format: enter the key again."),
        )
    return key_id, data


def _key_id(key: bytes) -> str:
    return hashlib.sha256(b"llb secrets key id" + key).hexdigest()[:_KEY_ID_CHARS]


def _decode_key(line: bytes, path: Path) -> bytes:
    prefix = _FILE_PREFIX.encode()
    try:
        key = base64.b64decode(line.removeprefix(prefix), altchars=b"-_", validate=True)
    except binascii.Error:
        key = b""
    if not line.startswith(prefix) or len(key) != KEY_BYTES:
        raise SecretUnreadable(
            SecretFault.KEY_FILE_BROKEN,
            CodedText(
                "secret_damaged_key_file",
                "The key file {file} is damaged: restore it, or remove it and enter the keys again.",
                file=path.name,
            ),
        )
    return key


def _restrict_mode(path: Path) -> None:
    # A restore with a common umask leaves the file readable for others.
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        path.chmod(0o600)
