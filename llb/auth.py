"""Passwords, tokens and what their bearers may do. Nothing here reads or writes; hashing a password is slow, call it in a thread."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from time import monotonic

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from llb.config import DEFAULT_PASSWORD
from llb.errors import InvalidRequest, RateLimited
from llb.runfile import TOKEN_PREFIX
from llb.wire import KeyLimits, Role, Scope

# OWASP's Argon2id minimum: 19 MiB, 2 passes, 1 lane; about 30 ms of one core.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
# Of a password nobody knows, with the same parameters: an unknown user takes as long to refuse as a known one.
_NOBODY = "$argon2id$v=19$m=19456,t=2,p=1$MMhkCD8iCdjoroUHbA/6/w$4oOyYPwDRJGnfRQ9pHz8B+Q8QXH1T3VoflgHZdim6/g"

PASSWORD_MIN_LENGTH = 8
PASSWORD_MAX_LENGTH = 1024  # longer ones only cost time to hash
KEY_MARK = "sk-"
JOIN_MARK = "llbj-"
NODE_MARK = "llbn-"
_PREFIX_LENGTH = len(KEY_MARK) + 7


# --- passwords ---------------------------------------------------------------------------------------


def hash_password(password: str) -> str:
    """The Argon2id hash of `password`, with its salt and parameters in it."""
    return _HASHER.hash(password)


def verify_password(password: str, password_hash: str | None) -> bool:
    """Whether `password` is the one of `password_hash`; None, for nobody, takes as long and is False."""
    try:
        verified = _HASHER.verify(_NOBODY if password_hash is None else password_hash, password)
    except (VerificationError, InvalidHashError):
        return False
    return verified and password_hash is not None


def needs_rehash(password_hash: str) -> bool:
    """Whether `password_hash` was made with other parameters than today's."""
    return _HASHER.check_needs_rehash(password_hash)


def check_new_password(password: str, param: str = "new_password") -> None:
    """Raises `InvalidRequest` with the rule that a new password breaks; `param` is its field's name."""
    if password == DEFAULT_PASSWORD:
        raise InvalidRequest("Everybody knows that password; choose another one", param=param)
    if len(password) < PASSWORD_MIN_LENGTH:
        raise InvalidRequest(f"A password has at least {PASSWORD_MIN_LENGTH} characters", param=param)
    if len(password) > PASSWORD_MAX_LENGTH:
        raise InvalidRequest(f"A password has at most {PASSWORD_MAX_LENGTH} characters", param=param)


# --- tokens ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NewApiKey:
    """A key just made: `key` is shown once, `prefix` tells it apart in lists, `hash` is kept."""

    key: str
    prefix: str
    hash: str


def new_api_key() -> NewApiKey:
    key = KEY_MARK + secrets.token_hex(24)
    return NewApiKey(key, key[:_PREFIX_LENGTH], hash_token(key))


def new_session_token() -> str:
    return secrets.token_urlsafe(32)


def new_local_token() -> str:
    """The secret by which the command line on this host proves that it may read the home's files."""
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def new_join_token() -> str:
    """Lets one host join, once."""
    return JOIN_MARK + secrets.token_urlsafe(24)


def bound_token(token: str, fingerprint: str) -> str:
    """A join token that also says by which certificate the llb is known that made it."""
    return f"{token}.{fingerprint}"


def split_token(token: str) -> tuple[str, str | None]:
    """A join token, and the fingerprint in it, if there is one."""
    bare, _, fingerprint = token.strip().partition(".")
    return bare, fingerprint or None


def new_node_credential() -> str:
    """By which a node and its balancer know each other, one for each direction."""
    return NODE_MARK + secrets.token_urlsafe(32)


def new_id() -> str:
    """A random id of a user or a key; no secret."""
    return secrets.token_hex(8)


def hash_token(token: str) -> str:
    """SHA-256: a random token cannot be guessed, so a slow hash would protect nothing."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def prove(credential: str, node_id: str, nonce: str) -> str:
    """What only a holder of `credential` can answer to `nonce`: HMAC-SHA256, as hexadecimal digits."""
    return hmac.new(credential.encode(), f"{node_id}:{nonce}".encode(), hashlib.sha256).hexdigest()


def prove_balancer(credential: str, node_id: str, nonce: str) -> str:
    """As `prove`, by the balancer of the node; neither can be made to say what the other would."""
    return prove(credential, f"balancer:{node_id}", nonce)


def same_token(given: str, expected: str) -> bool:
    """Compare in a time that says nothing about where they differ."""
    return hmac.compare_digest(
        given.encode("utf-8", "surrogateescape"), expected.encode("utf-8", "surrogateescape")
    )


# --- permissions -------------------------------------------------------------------------------------


class PrincipalKind(StrEnum):
    SESSION = "session"
    KEY = "key"
    LOCAL = "local"  # the command line on the host
    NODE = "node"


_ALL = frozenset(Scope)
_GRANTS = {Role.ADMIN: _ALL, Role.USER: frozenset({Scope.INFERENCE, Scope.MODELS_READ})}


def expand(scopes: frozenset[Scope]) -> frozenset[Scope]:
    """`scopes` with what they imply: admin implies all."""
    return _ALL if Scope.ADMIN in scopes else scopes


@dataclass(frozen=True, kw_only=True)
class Principal:
    """Who makes a request. `id` is the session's, the key's or the node's; a key made on the host has no user."""

    kind: PrincipalKind
    id: str
    role: Role
    scopes: frozenset[Scope] = _ALL
    user_id: str | None = None
    username: str | None = None
    must_change_password: bool = False
    expires_at: float | None = None
    name: str | None = None
    limits: KeyLimits | None = None  # of a key that has any

    @property
    def grants(self) -> frozenset[Scope]:
        """What it may do: its scopes, as far as the role goes. A node has none: its routes ask for a node."""
        if self.kind is PrincipalKind.NODE:
            return frozenset()
        return expand(self.scopes) & _GRANTS[self.role]

    @property
    def label(self) -> str:
        """How the audit trail calls it."""
        if self.kind is PrincipalKind.SESSION:
            return self.username or self.id
        if self.kind is PrincipalKind.KEY:
            return (
                f"key {self.name or self.id} of {self.username}"
                if self.username
                else f"key {self.name or self.id}"
            )
        return self.kind.value if self.kind is PrincipalKind.LOCAL else f"{self.kind.value} {self.id}"


def grants_of(role: Role) -> frozenset[Scope]:
    """All that somebody of `role` may do."""
    return _GRANTS[role]


def allows(principal: Principal, scope: Scope) -> bool:
    """Whether `principal` may do what `scope` stands for: what its scopes say and its role allows."""
    return scope in principal.grants


# --- guessing ----------------------------------------------------------------------------------------


@dataclass
class _Record:
    failures: int = 0
    until: float = 0.0
    seen: float = 0.0


class Throttle:
    """Slows down the guessing of passwords, per account and per address, in memory of a bounded size."""

    FREE_ATTEMPTS = 5
    ACCOUNT_DELAY_MAX_S = 30.0  # short: whoever guesses must not be able to lock the owner out for long
    ADDRESS_DELAY_MAX_S = 300.0
    FORGET_S = 900.0
    MAX_RECORDS = 10_000

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._records: dict[tuple[str, str], _Record] = {}

    def __len__(self) -> int:
        return len(self._records)

    def attempt(self, account: str, address: str) -> None:
        """Count an attempt as failed until `succeeded` says otherwise; raises `RateLimited` where it comes too soon.

        Counting before the slow check is what stops many guesses at the same time.
        """
        now = self._clock()
        limits = (
            (self._record(("account", account.casefold()), now), self.ACCOUNT_DELAY_MAX_S),
            (self._record(("address", _network(address)), now), self.ADDRESS_DELAY_MAX_S),
        )
        wait_s = max(record.until for record, _ in limits) - now
        if wait_s > 0:
            raise RateLimited("Too many failed attempts; wait a little", retry_after_s=int(wait_s) + 1)
        for record, delay_max_s in limits:
            record.failures += 1
            excess = record.failures - self.FREE_ATTEMPTS
            # min() first: the exponent of a patient guesser would overflow a float.
            record.until = now + min(delay_max_s, 2.0 ** min(excess, 16)) if excess >= 0 else 0.0

    def succeeded(self, account: str, address: str) -> None:
        """Take the attempt back. The address keeps its other failures: it may be guessing at others' accounts."""
        self._records.pop(("account", account.casefold()), None)
        record = self._records.get(("address", _network(address)))
        if record is not None:
            record.failures = max(0, record.failures - 1)
            record.until = 0.0

    def _record(self, key: tuple[str, str], now: float) -> _Record:
        record = self._records.pop(key, None)
        if record is None or now - record.seen > self.FORGET_S:
            record = _Record()
        record.seen = now
        self._records[key] = record  # at the end: the front is what was not seen for the longest time
        while len(self._records) > self.MAX_RECORDS:
            del self._records[next(iter(self._records))]
        return record


def _network(address: str) -> str:
    """One IPv6 customer has a whole /64: those addresses count as one."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((int(ip), 64), strict=False))
    return str(ip)
