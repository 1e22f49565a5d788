"""Passwords: Argon2id hashes, and the rules for new passwords.

Hashing takes about 30 ms of a core: call it in a thread.
"""

from __future__ import annotations

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from llb.config import DEFAULT_PASSWORD
from llb.errors import InvalidRequest
from llb.texts.coded_text import CodedText

# OWASP's minimum for Argon2id: 19 MiB, 2 passes, 1 lane.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
# Hash of a random password with the same parameters, so that rejecting an unknown user takes as long as a
# known one.
DUMMY_HASH = (
    "$argon2id$v=19$m=19456,t=2,p=1$MMhkCD8iCdjoroUHbA/6/w$4oOyYPwDRJGnfRQ9pHz8B+Q8QXH1T3VoflgHZdim6/g"
)

PASSWORD_MIN_LENGTH = 8
# Longer ones would only take time to hash.
PASSWORD_MAX_LENGTH = 1024


def hash_password(password: str) -> str:
    """Return the Argon2id hash of `password`, which contains its salt and parameters."""
    return _HASHER.hash(password)


def verify_password(password: str, password_hash: str | None) -> bool:
    """Return whether `password` matches; without a hash (unknown user) False, after the same time."""
    try:
        verified = _HASHER.verify(DUMMY_HASH if password_hash is None else password_hash, password)
    except (VerificationError, InvalidHashError):
        return False
    return verified and password_hash is not None


def needs_rehash(password_hash: str) -> bool:
    """Return whether `password_hash` was made with other parameters than the present ones."""
    return _HASHER.check_needs_rehash(password_hash)


def check_new_password(password: str, param: str = "new_password") -> None:
    """Raise `InvalidRequest` if a new password breaks a rule; `param` is the name of its field."""
    if password == DEFAULT_PASSWORD:
        raise InvalidRequest(
            CodedText("password_default", "This is the default password; choose another one"), param=param
        )
    if len(password) < PASSWORD_MIN_LENGTH:
        raise InvalidRequest(
            CodedText(
                "password_short", "The password must have at least {min} characters", min=PASSWORD_MIN_LENGTH
            ),
            param=param,
        )
    if len(password) > PASSWORD_MAX_LENGTH:
        raise InvalidRequest(
            CodedText(
                "password_long", "The password must have at most {max} characters", max=PASSWORD_MAX_LENGTH
            ),
            param=param,
        )
