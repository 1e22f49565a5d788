"""Login rate limiter: delays per account and per address."""

from __future__ import annotations

import pytest

from llb.errors import RateLimited
from llb.security.login_rate_limiter import LoginRateLimiter


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def _refused_for(limiter: LoginRateLimiter, account: str, address: str) -> int:
    with pytest.raises(RateLimited) as caught:
        limiter.record_attempt(account, address)
    assert caught.value.message == "Too many failed attempts; try again later"
    assert caught.value.retry_after_s is not None
    return caught.value.retry_after_s


def test_guessing_gets_slower_and_slower() -> None:
    clock = Clock()
    limiter = LoginRateLimiter(clock)
    for _ in range(LoginRateLimiter.FREE_ATTEMPTS):
        limiter.record_attempt("ann", "10.0.0.1")
    waits = []
    for _ in range(8):
        waits.append(_refused_for(limiter, "ann", "10.0.0.1"))
        clock.now += waits[-1]
        limiter.record_attempt("ann", "10.0.0.1")
    assert waits == [2**doubled + 1 for doubled in range(8)]
    for _ in range(2000):
        clock.now += LoginRateLimiter.ADDRESS_DELAY_MAX_S
        limiter.record_attempt("ann", "10.0.0.1")
    assert _refused_for(limiter, "ann", "10.0.0.1") == LoginRateLimiter.ADDRESS_DELAY_MAX_S + 1


def test_the_moment_at_which_a_wait_ends_is_no_longer_one() -> None:
    clock = Clock()
    limiter = LoginRateLimiter(clock)
    for _ in range(LoginRateLimiter.FREE_ATTEMPTS):
        limiter.record_attempt("ann", "10.0.0.1")
    clock.now = 1.0
    limiter.record_attempt("ann", "10.0.0.1")
    clock.now = 2.999
    assert _refused_for(limiter, "ann", "10.0.0.1") == 1
    clock.now = 3.0
    limiter.record_attempt("ann", "10.0.0.1")


def test_an_account_is_guarded_from_many_addresses_but_not_locked_for_long() -> None:
    clock = Clock()
    limiter = LoginRateLimiter(clock)
    for number in range(LoginRateLimiter.FREE_ATTEMPTS):
        limiter.record_attempt("Ann", f"10.0.0.{number}")
    assert _refused_for(limiter, "ANN", "10.0.0.99") >= 1
    limiter.record_attempt("bob", "10.0.0.99")
    for number in range(2000):
        clock.now += 31
        limiter.record_attempt("ann", f"10.1.{number // 250}.{number % 250}")
    assert _refused_for(limiter, "ann", "10.0.0.98") <= 31


def test_an_address_is_guarded_over_many_accounts_and_a_whole_ipv6_network_is_one() -> None:
    limiter = LoginRateLimiter(Clock())
    for number in range(LoginRateLimiter.FREE_ATTEMPTS):
        limiter.record_attempt(f"user{number}", f"2001:db8::{number + 1}")
    assert _refused_for(limiter, "other", "2001:db8::ffff") >= 1
    limiter.record_attempt("other", "2001:db8:0:1::1")


def test_a_success_takes_its_attempt_back_and_no_more() -> None:
    limiter = LoginRateLimiter(Clock())
    for _ in range(3 * LoginRateLimiter.FREE_ATTEMPTS):
        limiter.record_attempt("ann", "10.0.0.1")
        limiter.record_success("ann", "10.0.0.1")
    for number in range(LoginRateLimiter.FREE_ATTEMPTS - 1):
        limiter.record_attempt(f"user{number}", "10.0.0.1")
    limiter.record_attempt("ann", "10.0.0.1")  # the guesser's own account
    limiter.record_success("ann", "10.0.0.1")
    limiter.record_attempt("last", "10.0.0.1")
    assert _refused_for(limiter, "next", "10.0.0.1") >= 1


def test_success_frees_the_address_at_once() -> None:
    limiter = LoginRateLimiter(Clock())
    for number in range(LoginRateLimiter.FREE_ATTEMPTS):
        limiter.record_attempt(f"user{number}", "10.0.0.1")
    limiter.record_success("user4", "10.0.0.1")
    limiter.record_attempt("user5", "10.0.0.1")


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
    limiter = LoginRateLimiter(Clock())
    for number in range(LoginRateLimiter.FREE_ATTEMPTS):
        limiter.record_attempt(f"user{number}", one)
    if same:
        _refused_for(limiter, "other", other)
    else:
        limiter.record_attempt("other", other)


def test_what_is_long_ago_is_forgotten() -> None:
    clock = Clock()
    limiter = LoginRateLimiter(clock)
    for _ in range(LoginRateLimiter.FREE_ATTEMPTS):
        limiter.record_attempt("ann", "10.0.0.1")
    clock.now += LoginRateLimiter.RECORD_TTL_S
    limiter.record_attempt("ann", "10.0.0.1")
    assert _refused_for(limiter, "ann", "10.0.0.1") == 3  # not yet
    clock.now += LoginRateLimiter.RECORD_TTL_S + 1
    for _ in range(LoginRateLimiter.FREE_ATTEMPTS):
        limiter.record_attempt("ann", "10.0.0.1")


def test_the_memory_of_guesses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LoginRateLimiter, "MAX_RECORDS", 20)
    limiter = LoginRateLimiter(Clock())
    for number in range(200):
        limiter.record_attempt(f"user{number}", f"10.0.{number // 250}.{number % 250}")
    assert len(limiter._records) == 20
