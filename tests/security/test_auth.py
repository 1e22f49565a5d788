from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Callable

import pytest

from llb.errors import InvalidRequest, RateLimited
from llb.security import passwords, tokens
from llb.security.login_rate_limiter import LoginRateLimiter
from llb.security.permissions import Principal, PrincipalKind, has_scope
from llb.wire import Role, Scope


def test_a_password_verifies_against_its_own_hash_only() -> None:
    stored = passwords.hash_password("correct horse")
    assert stored.startswith("$argon2id$")
    assert stored != passwords.hash_password("correct horse")
    assert passwords.verify_password("correct horse", stored)
    assert not passwords.verify_password("Correct horse", stored)
    assert not passwords.verify_password("correct horse", None)
    assert not passwords.verify_password("correct horse", "not a hash")


def test_an_unknown_user_costs_the_same_hash_as_a_known_one() -> None:
    assert not passwords.needs_rehash(passwords.DUMMY_HASH)
    assert not passwords.needs_rehash(passwords.hash_password("x"))


def test_a_hash_of_weaker_parameters_is_to_be_made_again() -> None:
    weak = passwords._HASHER.__class__(time_cost=1, memory_cost=1024, parallelism=1).hash("correct horse")
    assert passwords.verify_password("correct horse", weak)
    assert passwords.needs_rehash(weak)


@pytest.mark.parametrize(
    ("password", "rule"),
    [
        ("test", "Everybody knows that password; choose another one"),
        ("1234567", "A password has at least 8 characters"),
        ("", "A password has at least 8 characters"),
        ("x" * 1025, "A password has at most 1024 characters"),
    ],
)
def test_a_bad_new_password_is_refused_with_the_rule(password: str, rule: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        passwords.check_new_password(password)
    assert (caught.value.message, caught.value.details["param"]) == (rule, "new_password")
    with pytest.raises(InvalidRequest) as caught:
        passwords.check_new_password(password, param="password")
    assert caught.value.details["param"] == "password"


@pytest.mark.parametrize("password", ["12345678", "x" * 1024, "パスワード八文字以上"])
def test_a_good_new_password_passes(password: str) -> None:
    passwords.check_new_password(password)


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
    ("make", "mark", "random_bytes"),
    [
        (tokens.new_session_token, "", 32),
        (tokens.new_local_token, "llb-local-", 32),
        (tokens.new_join_token, "llbj-", 24),
        (tokens.new_node_credential, "llbn-", 32),
    ],
)
def test_every_token_has_its_mark_and_cannot_be_guessed(
    make: Callable[[], str], mark: str, random_bytes: int
) -> None:
    token = make()
    assert token.startswith(mark)
    assert token != make()
    secret = token.removeprefix(mark)
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


ALL = frozenset(Scope)


@pytest.mark.parametrize(
    ("role", "scopes", "granted"),
    [
        (Role.ADMIN, {Scope.ADMIN}, ALL),
        (Role.ADMIN, ALL, ALL),
        (Role.ADMIN, {Scope.INFERENCE}, {Scope.INFERENCE}),
        (Role.ADMIN, set(), set()),
        (Role.USER, {Scope.ADMIN}, {Scope.INFERENCE, Scope.MODELS_READ}),
        (Role.USER, {Scope.MODELS_WRITE}, set()),
        (Role.USER, {Scope.MODELS_READ, Scope.MODELS_WRITE}, {Scope.MODELS_READ}),
    ],
)
def test_what_a_principal_may_is_its_scopes_as_far_as_its_role_goes(
    role: Role, scopes: set[Scope], granted: set[Scope]
) -> None:
    principal = Principal(kind=PrincipalKind.KEY, id="k", role=role, scopes=frozenset(scopes))
    assert principal.granted_scopes == granted
    for scope in Scope:
        assert has_scope(principal, scope) == (scope in granted)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def _refused_for(throttle: LoginRateLimiter, account: str, address: str) -> int:
    with pytest.raises(RateLimited) as caught:
        throttle.record_attempt(account, address)
    assert caught.value.message == "Too many failed attempts; wait a little"
    assert caught.value.retry_after_s is not None
    return caught.value.retry_after_s


def test_guessing_gets_slower_and_slower() -> None:
    clock = Clock()
    throttle = LoginRateLimiter(clock)
    for _ in range(LoginRateLimiter.FREE_ATTEMPTS):
        throttle.record_attempt("ann", "10.0.0.1")
    waits = []
    for _ in range(8):
        waits.append(_refused_for(throttle, "ann", "10.0.0.1"))
        clock.now += waits[-1]
        throttle.record_attempt("ann", "10.0.0.1")
    assert waits == [2**doubled + 1 for doubled in range(8)]
    for _ in range(2000):
        clock.now += LoginRateLimiter.ADDRESS_DELAY_MAX_S
        throttle.record_attempt("ann", "10.0.0.1")
    assert _refused_for(throttle, "ann", "10.0.0.1") == LoginRateLimiter.ADDRESS_DELAY_MAX_S + 1


def test_the_moment_at_which_a_wait_ends_is_no_longer_one() -> None:
    clock = Clock()
    throttle = LoginRateLimiter(clock)
    for _ in range(LoginRateLimiter.FREE_ATTEMPTS):
        throttle.record_attempt("ann", "10.0.0.1")
    clock.now = 1.0
    throttle.record_attempt("ann", "10.0.0.1")
    clock.now = 2.999
    assert _refused_for(throttle, "ann", "10.0.0.1") == 1
    clock.now = 3.0
    throttle.record_attempt("ann", "10.0.0.1")


def test_an_account_is_guarded_from_many_addresses_but_not_locked_for_long() -> None:
    clock = Clock()
    throttle = LoginRateLimiter(clock)
    for number in range(LoginRateLimiter.FREE_ATTEMPTS):
        throttle.record_attempt("Ann", f"10.0.0.{number}")
    assert _refused_for(throttle, "ANN", "10.0.0.99") >= 1
    throttle.record_attempt("bob", "10.0.0.99")
    for number in range(2000):
        clock.now += 31
        throttle.record_attempt("ann", f"10.1.{number // 250}.{number % 250}")
    assert _refused_for(throttle, "ann", "10.0.0.98") <= 31


def test_an_address_is_guarded_over_many_accounts_and_a_whole_ipv6_network_is_one() -> None:
    throttle = LoginRateLimiter(Clock())
    for number in range(LoginRateLimiter.FREE_ATTEMPTS):
        throttle.record_attempt(f"user{number}", f"2001:db8::{number + 1}")
    assert _refused_for(throttle, "other", "2001:db8::ffff") >= 1
    throttle.record_attempt("other", "2001:db8:0:1::1")


def test_a_success_takes_its_attempt_back_and_no_more() -> None:
    throttle = LoginRateLimiter(Clock())
    for _ in range(3 * LoginRateLimiter.FREE_ATTEMPTS):
        throttle.record_attempt("ann", "10.0.0.1")
        throttle.record_success("ann", "10.0.0.1")
    for number in range(LoginRateLimiter.FREE_ATTEMPTS - 1):
        throttle.record_attempt(f"user{number}", "10.0.0.1")
    throttle.record_attempt("ann", "10.0.0.1")  # the guesser's own account
    throttle.record_success("ann", "10.0.0.1")
    throttle.record_attempt("last", "10.0.0.1")
    assert _refused_for(throttle, "next", "10.0.0.1") >= 1


def test_success_frees_the_address_at_once() -> None:
    throttle = LoginRateLimiter(Clock())
    for number in range(LoginRateLimiter.FREE_ATTEMPTS):
        throttle.record_attempt(f"user{number}", "10.0.0.1")
    throttle.record_success("user4", "10.0.0.1")
    throttle.record_attempt("user5", "10.0.0.1")


def test_success_of_what_was_forgotten_is_none() -> None:
    LoginRateLimiter(Clock()).record_success("ann", "10.0.0.1")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
        ("2001:db8::1", "2001:db8::8000:0:0:1", True),  # the first bit after the network
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("somewhere", "somewhere", True),
        ("somewhere", "elsewhere", False),
    ],
)
def test_which_addresses_are_one(one: str, other: str, same: bool) -> None:
    throttle = LoginRateLimiter(Clock())
    for number in range(LoginRateLimiter.FREE_ATTEMPTS):
        throttle.record_attempt(f"user{number}", one)
    if same:
        _refused_for(throttle, "other", other)
    else:
        throttle.record_attempt("other", other)


def test_what_is_long_ago_is_forgotten() -> None:
    clock = Clock()
    throttle = LoginRateLimiter(clock)
    for _ in range(LoginRateLimiter.FREE_ATTEMPTS):
        throttle.record_attempt("ann", "10.0.0.1")
    clock.now += LoginRateLimiter.RECORD_TTL_S
    throttle.record_attempt("ann", "10.0.0.1")
    assert _refused_for(throttle, "ann", "10.0.0.1") == 3  # not yet
    clock.now += LoginRateLimiter.RECORD_TTL_S + 1
    for _ in range(LoginRateLimiter.FREE_ATTEMPTS):
        throttle.record_attempt("ann", "10.0.0.1")


def test_the_memory_of_guesses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LoginRateLimiter, "MAX_RECORDS", 20)
    throttle = LoginRateLimiter(Clock())
    for number in range(200):
        throttle.record_attempt(f"user{number}", f"10.0.{number // 250}.{number % 250}")
    assert len(throttle) == 20
