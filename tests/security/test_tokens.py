"""Tokens: random, recognisable by their prefix, compared in constant time."""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Callable

import pytest

from llb.security import tokens


def test_a_key_is_random_and_recognisable_and_kept_as_a_hash() -> None:
    one, two = tokens.new_api_key(), tokens.new_api_key()
    assert one.key != two.key
    assert one.key.startswith("sk-")
    assert one.key.startswith(one.prefix)
    assert len(one.key) == len("sk-") + 48
    assert len(one.prefix) == len("sk-") + 7
    assert one.hash == tokens.hash_token(one.key)
    assert one.key not in repr(one.hash)


def test_tokens_of_any_text_can_be_compared() -> None:
    assert tokens.tokens_equal("abc", "abc")
    assert not tokens.tokens_equal("abc", "abd")
    assert not tokens.tokens_equal("\udcff日本", "abc")  # what a header's stray bytes become
    assert not tokens.tokens_equal("abc", "\udcff日本")
    assert tokens.tokens_equal("\udcff日本", "\udcff日本")
    assert tokens.hash_token("\udcff") != tokens.hash_token("\udcfe")


@pytest.mark.parametrize(
    ("make", "prefix", "random_bytes"),
    [
        (tokens.new_session_token, "", 32),
        (tokens.new_local_token, "llb-local-", 32),
        (tokens.new_join_token, "llbj-", 24),
        (tokens.new_node_credential, "llbn-", 32),
    ],
)
def test_every_token_has_its_prefix_and_cannot_be_guessed(
    make: Callable[[], str], prefix: str, random_bytes: int
) -> None:
    token = make()
    assert token.startswith(prefix)
    assert token != make()
    secret = token.removeprefix(prefix)
    assert len(base64.urlsafe_b64decode(secret + "=" * (-len(secret) % 4))) == random_bytes


def test_an_id_is_short_and_another_each_time() -> None:
    assert re.fullmatch("[0-9a-f]{16}", tokens.new_random_id())
    assert tokens.new_random_id() != tokens.new_random_id()


def test_a_join_token_may_carry_a_fingerprint() -> None:
    token = tokens.new_join_token()
    assert tokens.split_join_token(tokens.join_token_with_fingerprint(token, "ab:cd.ef")) == (
        token,
        "ab:cd.ef",
    )
    assert tokens.split_join_token(f" {token}\n") == (token, None)
    assert tokens.split_join_token(f"{token}.") == (token, None)


def test_who_proves_what_holds_the_credential() -> None:
    expected = hmac.new(b"llbn-x", b"node:abc", "sha256").hexdigest()
    assert tokens.challenge_response("llbn-x", "node", "abc") == expected
    assert tokens.balancer_challenge_response("llbn-x", "node", "abc") == tokens.challenge_response(
        "llbn-x", "balancer:node", "abc"
    )
    assert tokens.balancer_challenge_response("llbn-x", "node", "abc") != expected
