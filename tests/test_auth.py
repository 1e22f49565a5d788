from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Callable

import pytest

from llb import auth
from llb.auth import Principal, PrincipalKind, Throttle, allows
from llb.errors import InvalidRequest, RateLimited
from llb.wire import Role, Scope


def test_a_password_verifies_against_its_own_hash_only() -> None:
    stored = auth.hash_password("correct horse")
    assert stored.startswith("$argon2id$")
    assert stored != auth.hash_password("correct horse")
    assert auth.verify_password("correct horse", stored)
    assert not auth.verify_password("Correct horse", stored)
    assert not auth.verify_password("correct horse", None)
    assert not auth.verify_password("correct horse", "not a hash")


def test_an_unknown_user_costs_the_same_hash_as_a_known_one() -> None:
    assert not auth.needs_rehash(auth._NOBODY)
    assert not auth.needs_rehash(auth.hash_password("x"))


def test_a_hash_of_weaker_parameters_is_to_be_made_again() -> None:
    weak = auth._HASHER.__class__(time_cost=1, memory_cost=1024, parallelism=1).hash("correct horse")
    assert auth.verify_password("correct horse", weak)
    assert auth.needs_rehash(weak)


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
        auth.check_new_password(password)
    assert (caught.value.message, caught.value.details["param"]) == (rule, "new_password")
    with pytest.raises(InvalidRequest) as caught:
        auth.check_new_password(password, param="password")
    assert caught.value.details["param"] == "password"


@pytest.mark.parametrize("password", ["12345678", "x" * 1024, "パスワード八文字以上"])
def test_a_good_new_password_passes(password: str) -> None:
    auth.check_new_password(password)


def test_a_key_is_random_and_recognisable_and_kept_as_a_hash() -> None:
    one, two = auth.new_api_key(), auth.new_api_key()
    assert one.key != two.key
    assert one.key.startswith("sk-")
    assert one.key.startswith(one.prefix)
    assert len(one.key) == len("sk-") + 48
    assert len(one.prefix) == len("sk-") + 7
    assert one.hash == auth.hash_token(one.key)
    assert one.key not in repr(one.hash)


def test_tokens_of_any_text_can_be_compared() -> None:
    assert auth.same_token("abc", "abc")
    assert not auth.same_token("abc", "abd")
    assert not auth.same_token("\udcff日本", "abc")  # what a header's stray bytes become
    assert not auth.same_token("abc", "\udcff日本")
    assert auth.same_token("\udcff日本", "\udcff日本")
    assert auth.hash_token("\udcff") != auth.hash_token("\udcfe")


@pytest.mark.parametrize(
    ("make", "mark", "random_bytes"),
    [
        (auth.new_session_token, "", 32),
        (auth.new_local_token, "llb-local-", 32),
        (auth.new_join_token, "llbj-", 24),
        (auth.new_node_credential, "llbn-", 32),
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
    assert re.fullmatch("[0-9a-f]{16}", auth.new_id())
    assert auth.new_id() != auth.new_id()


def test_a_join_token_may_carry_a_fingerprint() -> None:
    token = auth.new_join_token()
    assert auth.split_token(auth.bound_token(token, "ab:cd.ef")) == (token, "ab:cd.ef")
    assert auth.split_token(f" {token}\n") == (token, None)
    assert auth.split_token(f"{token}.") == (token, None)


def test_who_proves_what_holds_the_credential() -> None:
    expected = hmac.new(b"llbn-x", b"node:abc", "sha256").hexdigest()
    assert auth.prove("llbn-x", "node", "abc") == expected
    assert auth.prove_balancer("llbn-x", "node", "abc") == auth.prove("llbn-x", "balancer:node", "abc")
    assert auth.prove_balancer("llbn-x", "node", "abc") != expected


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
    assert principal.grants == granted
    for scope in Scope:
        assert allows(principal, scope) == (scope in granted)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def _refused_for(throttle: Throttle, account: str, address: str) -> int:
    with pytest.raises(RateLimited) as caught:
        throttle.attempt(account, address)
    assert caught.value.message == "Too many failed attempts; wait a little"
    assert caught.value.retry_after_s is not None
    return caught.value.retry_after_s


def test_guessing_gets_slower_and_slower() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    for _ in range(Throttle.FREE_ATTEMPTS):
        throttle.attempt("ann", "10.0.0.1")
    waits = []
    for _ in range(8):
        waits.append(_refused_for(throttle, "ann", "10.0.0.1"))
        clock.now += waits[-1]
        throttle.attempt("ann", "10.0.0.1")
    assert waits == [2**doubled + 1 for doubled in range(8)]
    for _ in range(2000):
        clock.now += Throttle.ADDRESS_DELAY_MAX_S
        throttle.attempt("ann", "10.0.0.1")
    assert _refused_for(throttle, "ann", "10.0.0.1") == Throttle.ADDRESS_DELAY_MAX_S + 1


def test_the_moment_at_which_a_wait_ends_is_no_longer_one() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    for _ in range(Throttle.FREE_ATTEMPTS):
        throttle.attempt("ann", "10.0.0.1")
    clock.now = 1.0
    throttle.attempt("ann", "10.0.0.1")
    clock.now = 2.999
    assert _refused_for(throttle, "ann", "10.0.0.1") == 1
    clock.now = 3.0
    throttle.attempt("ann", "10.0.0.1")


def test_an_account_is_guarded_from_many_addresses_but_not_locked_for_long() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    for number in range(Throttle.FREE_ATTEMPTS):
        throttle.attempt("Ann", f"10.0.0.{number}")
    assert _refused_for(throttle, "ANN", "10.0.0.99") >= 1
    throttle.attempt("bob", "10.0.0.99")
    for number in range(2000):
        clock.now += 31
        throttle.attempt("ann", f"10.1.{number // 250}.{number % 250}")
    assert _refused_for(throttle, "ann", "10.0.0.98") <= 31


def test_an_address_is_guarded_over_many_accounts_and_a_whole_ipv6_network_is_one() -> None:
    throttle = Throttle(Clock())
    for number in range(Throttle.FREE_ATTEMPTS):
        throttle.attempt(f"user{number}", f"2001:db8::{number + 1}")
    assert _refused_for(throttle, "other", "2001:db8::ffff") >= 1
    throttle.attempt("other", "2001:db8:0:1::1")


def test_a_success_takes_its_attempt_back_and_no_more() -> None:
    throttle = Throttle(Clock())
    for _ in range(3 * Throttle.FREE_ATTEMPTS):
        throttle.attempt("ann", "10.0.0.1")
        throttle.succeeded("ann", "10.0.0.1")
    for number in range(Throttle.FREE_ATTEMPTS - 1):
        throttle.attempt(f"user{number}", "10.0.0.1")
    throttle.attempt("ann", "10.0.0.1")  # the guesser's own account
    throttle.succeeded("ann", "10.0.0.1")
    throttle.attempt("last", "10.0.0.1")
    assert _refused_for(throttle, "next", "10.0.0.1") >= 1


def test_success_frees_the_address_at_once() -> None:
    throttle = Throttle(Clock())
    for number in range(Throttle.FREE_ATTEMPTS):
        throttle.attempt(f"user{number}", "10.0.0.1")
    throttle.succeeded("user4", "10.0.0.1")
    throttle.attempt("user5", "10.0.0.1")


def test_success_of_what_was_forgotten_is_none() -> None:
    Throttle(Clock()).succeeded("ann", "10.0.0.1")


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
    throttle = Throttle(Clock())
    for number in range(Throttle.FREE_ATTEMPTS):
        throttle.attempt(f"user{number}", one)
    if same:
        _refused_for(throttle, "other", other)
    else:
        throttle.attempt("other", other)


def test_what_is_long_ago_is_forgotten() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    for _ in range(Throttle.FREE_ATTEMPTS):
        throttle.attempt("ann", "10.0.0.1")
    clock.now += Throttle.FORGET_S
    throttle.attempt("ann", "10.0.0.1")
    assert _refused_for(throttle, "ann", "10.0.0.1") == 3  # not yet
    clock.now += Throttle.FORGET_S + 1
    for _ in range(Throttle.FREE_ATTEMPTS):
        throttle.attempt("ann", "10.0.0.1")


def test_the_memory_of_guesses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Throttle, "MAX_RECORDS", 20)
    throttle = Throttle(Clock())
    for number in range(200):
        throttle.attempt(f"user{number}", f"10.0.{number // 250}.{number % 250}")
    assert len(throttle) == 20
