"""Passwords: Argon2id hashes and the rules for new ones. Hashing takes about 30 ms of a core: call it in a thread."""

from __future__ import annotations

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from llb.config import DEFAULT_PASSWORD
from llb.errors import InvalidRequest

# OWASP's Argon2id minimum: 19 MiB, 2 passes, 1 lane; about 30 ms of one core.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
# Of a password nobody knows, with the same parameters: an unknown user takes as long to refuse as a known one.
DUMMY_HASH = (
    "$argon2id$v=19$m=19456,t=2,p=1$MMhkCD8iCdjoroUHbA/6/w$4oOyYPwDRJGnfRQ9pHz8B+Q8QXH1T3VoflgHZdim6/g"
)

PASSWORD_MIN_LENGTH = 8
PASSWORD_MAX_LENGTH = 1024  # longer ones only cost time to hash


def hash_password(password: str) -> str:
    """The Argon2id hash of `password`, with its salt and parameters in it."""
    return _HASHER.hash(password)


def verify_password(password: str, password_hash: str | None) -> bool:
    """Whether `password` is the one of `password_hash`; None, for nobody, takes as long and is False."""
    try:
        verified = _HASHER.verify(DUMMY_HASH if password_hash is None else password_hash, password)
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
