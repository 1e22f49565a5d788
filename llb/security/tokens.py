"""Random tokens and credentials: generation, hashes, comparison and challenge-response."""

from __future__ import annotations

import hashlib
import hmac
import secrets

from msgspec import Struct

from llb.base.runfile import LOCAL_TOKEN_PREFIX

API_KEY_PREFIX = "sk-"
JOIN_TOKEN_PREFIX = "llbj-"  # noqa: S105
NODE_CREDENTIAL_PREFIX = "llbn-"
_SHOWN_KEY_CHARS = len(API_KEY_PREFIX) + 7


class NewApiKey(Struct, frozen=True):
    """New API key: `key` is shown once, `prefix` identifies it in lists, `hash` is stored."""

    key: str
    prefix: str
    hash: str


def new_api_key() -> NewApiKey:
    """Return a new API key."""
    key = API_KEY_PREFIX + secrets.token_hex(24)
    return NewApiKey(key, key[:_SHOWN_KEY_CHARS], hash_token(key))


def new_session_token() -> str:
    """Return a new token of a login session."""
    return secrets.token_urlsafe(32)


def new_local_token() -> str:
    """Return a new token for the command line; reading it proves access to the files of the home."""
    return LOCAL_TOKEN_PREFIX + secrets.token_urlsafe(32)


def new_join_token() -> str:
    """Return a new token that admits one host."""
    return JOIN_TOKEN_PREFIX + secrets.token_urlsafe(24)


def join_token_with_fingerprint(token: str, fingerprint: str) -> str:
    """Return the join token with the fingerprint of the certificate of its llb."""
    return f"{token}.{fingerprint}"


def split_join_token(token: str) -> tuple[str, str | None]:
    """Split a join token into the bare token and its fingerprint, if it has one."""
    bare, _, fingerprint = token.strip().partition(".")
    return bare, fingerprint or None


def new_node_credential() -> str:
    """Return a new credential between a node and its balancer; each direction has one."""
    return NODE_CREDENTIAL_PREFIX + secrets.token_urlsafe(32)


def new_random_id() -> str:
    """Return a random id of a user or a key, which is not secret."""
    return secrets.token_hex(8)


def hash_token(token: str) -> str:
    """Return the SHA-256 of a token; a slow hash would not help, since a random token cannot be guessed."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def challenge_response(credential: str, node_id: str, nonce: str) -> str:
    """Return the HMAC-SHA256 of `nonce` in hexadecimal: a proof of `credential` without sending it."""
    return hmac.new(credential.encode(), f"{node_id}:{nonce}".encode(), hashlib.sha256).hexdigest()


def balancer_challenge_response(credential: str, node_id: str, nonce: str) -> str:
    """Return the balancer's response, which differs from the node's so that neither can be replayed."""
    return challenge_response(credential, f"balancer:{node_id}", nonce)


def tokens_equal(given: str, expected: str) -> bool:
    """Compare two tokens in constant time."""
    return hmac.compare_digest(
        given.encode("utf-8", "surrogateescape"), expected.encode("utf-8", "surrogateescape")
    )
