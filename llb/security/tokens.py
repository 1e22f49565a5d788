"""Random tokens and credentials: how they are made, hashed, compared and proved without being sent."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from llb.base.runfile import LOCAL_TOKEN_PREFIX

API_KEY_PREFIX = "sk-"
JOIN_TOKEN_PREFIX = "llbj-"  # noqa: S105  # a prefix, no secret
NODE_CREDENTIAL_PREFIX = "llbn-"
_SHOWN_KEY_CHARS = len(API_KEY_PREFIX) + 7


@dataclass(frozen=True)
class NewApiKey:
    """A key just made: `key` is shown once, `prefix` tells it apart in lists, `hash` is kept."""

    key: str
    prefix: str
    hash: str


def new_api_key() -> NewApiKey:
    key = API_KEY_PREFIX + secrets.token_hex(24)
    return NewApiKey(key, key[:_SHOWN_KEY_CHARS], hash_token(key))


def new_session_token() -> str:
    return secrets.token_urlsafe(32)


def new_local_token() -> str:
    """The secret by which the command line on this host proves that it may read the home's files."""
    return LOCAL_TOKEN_PREFIX + secrets.token_urlsafe(32)


def new_join_token() -> str:
    """Lets one host join, once."""
    return JOIN_TOKEN_PREFIX + secrets.token_urlsafe(24)


def join_token_with_fingerprint(token: str, fingerprint: str) -> str:
    """A join token that also says by which certificate the llb is known that made it."""
    return f"{token}.{fingerprint}"


def split_join_token(token: str) -> tuple[str, str | None]:
    """A join token, and the fingerprint in it, if there is one."""
    bare, _, fingerprint = token.strip().partition(".")
    return bare, fingerprint or None


def new_node_credential() -> str:
    """By which a node and its balancer know each other, one for each direction."""
    return NODE_CREDENTIAL_PREFIX + secrets.token_urlsafe(32)


def new_random_id() -> str:
    """A random id of a user or a key; no secret."""
    return secrets.token_hex(8)


def hash_token(token: str) -> str:
    """SHA-256: a random token cannot be guessed, so a slow hash would protect nothing."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def challenge_response(credential: str, node_id: str, nonce: str) -> str:
    """What only a holder of `credential` can answer to `nonce`: HMAC-SHA256, as hexadecimal digits."""
    return hmac.new(credential.encode(), f"{node_id}:{nonce}".encode(), hashlib.sha256).hexdigest()


def balancer_challenge_response(credential: str, node_id: str, nonce: str) -> str:
    """As `prove`, by the balancer of the node; neither can be made to say what the other would."""
    return challenge_response(credential, f"balancer:{node_id}", nonce)


def tokens_equal(given: str, expected: str) -> bool:
    """Compare in a time that says nothing about where they differ."""
    return hmac.compare_digest(
        given.encode("utf-8", "surrogateescape"), expected.encode("utf-8", "surrogateescape")
    )
