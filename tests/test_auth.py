from __future__ import annotations

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
        ("test", "Everybody knows"),
        ("1234567", "at least 8"),
        ("", "at least 8"),
        ("x" * 1025, "at most 1024"),
    ],
)
def test_a_bad_new_password_is_refused_with_the_rule(password: str, rule: str) -> None:
    with pytest.raises(InvalidRequest, match=rule):
        auth.check_new_password(password)


@pytest.mark.parametrize("password", ["12345678", "x" * 1024, "パスワード八文字以上"])
def test_a_good_new_password_passes(password: str) -> None:
    auth.check_new_password(password)


def test_a_key_is_random_and_recognisable_and_kept_as_a_hash() -> None:
    one, two = auth.new_api_key(), auth.new_api_key()
    assert one.key != two.key
    assert one.key.startswith("sk-")
    assert one.key.startswith(one.prefix)
    assert len(one.key) - len(one.prefix) > 30
    assert one.hash == auth.hash_token(one.key)
    assert one.key not in repr(one.hash)


def test_tokens_of_any_text_can_be_compared() -> None:
    assert auth.same_token("abc", "abc")
    assert not auth.same_token("abc", "abd")
    assert not auth.same_token("\udcff日本", "abc")  # what a header's stray bytes become
    assert auth.hash_token("\udcff") != auth.hash_token("\udcfe")


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
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def _refused_for(throttle: Throttle, account: str, address: str) -> int:
    with pytest.raises(RateLimited) as caught:
        throttle.attempt(account, address)
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
    assert waits == sorted(waits)
    assert waits[0] <= 2
    assert waits[-1] >= 64


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


def test_what_is_long_ago_is_forgotten() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    for _ in range(Throttle.FREE_ATTEMPTS):
        throttle.attempt("ann", "10.0.0.1")
    clock.now += Throttle.FORGET_S + 1
    for _ in range(Throttle.FREE_ATTEMPTS):
        throttle.attempt("ann", "10.0.0.1")


def test_the_memory_of_guesses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Throttle, "MAX_RECORDS", 20)
    throttle = Throttle(Clock())
    for number in range(200):
        throttle.attempt(f"user{number}", f"10.0.{number // 250}.{number % 250}")
    assert len(throttle) <= 20
