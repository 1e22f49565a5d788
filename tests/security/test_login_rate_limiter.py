"""Login rate limiter: delays per account and per address."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from llb.errors import RateLimited
from llb.security.login_rate_limiter import LoginAttempt, LoginRateLimiter


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def attempt(
    account: str,
    address: str,
    *,
    exists: bool = True,
    device: str | None = None,
    is_known_address: bool = False,
) -> LoginAttempt:
    return LoginAttempt(
        username=account,
        address=address,
        user_id=account.casefold() if exists else None,
        device_id=device,
        is_known_address=is_known_address,
    )


def _refused_for(limiter: LoginRateLimiter, account: str, address: str, **source: Any) -> int:
    with pytest.raises(RateLimited) as caught:
        limiter.record_attempt(attempt(account, address, **source))
    assert caught.value.message == "Too many failed attempts; try again later"
    assert caught.value.retry_after_s is not None
    return caught.value.retry_after_s


def test_guessing_gets_slower_and_slower() -> None:
    clock = Clock()
    limiter = LoginRateLimiter(clock)
    for _ in range(LoginRateLimiter.FREE_ATTEMPTS):
        limiter.record_attempt(attempt("ann", "10.0.0.1"))
    waits = []
    for _ in range(8):
        waits.append(_refused_for(limiter, "ann", "10.0.0.1"))
        clock.now += waits[-1]
        limiter.record_attempt(attempt("ann", "10.0.0.1"))
    assert waits == [2**doubled + 1 for doubled in range(8)]
    for _ in range(2000):
        clock.now += LoginRateLimiter.ADDRESS_DELAY_MAX_S
        limiter.record_attempt(attempt("ann", "10.0.0.1"))
    assert _refused_for(limiter, "ann", "10.0.0.1") == LoginRateLimiter.ADDRESS_DELAY_MAX_S + 1


def test_the_moment_at_which_a_wait_ends_is_no_longer_one() -> None:
    clock = Clock()
    limiter = LoginRateLimiter(clock)
    for _ in range(LoginRateLimiter.FREE_ATTEMPTS):
        limiter.record_attempt(attempt("ann", "10.0.0.1"))
    clock.now = 1.0
    limiter.record_attempt(attempt("ann", "10.0.0.1"))
    clock.now = 2.999
    assert _refused_for(limiter, "ann", "10.0.0.1") == 1
    clock.now = 3.0
    limiter.record_attempt(attempt("ann", "10.0.0.1"))


def test_an_account_is_guarded_from_many_addresses_but_not_locked_for_long() -> None:
    clock = Clock()
    limiter = LoginRateLimiter(clock)
    for number in range(LoginRateLimiter.FREE_ATTEMPTS):
        limiter.record_attempt(attempt("Ann", f"10.0.0.{number}"))
    assert _refused_for(limiter, "ANN", "10.0.0.99") >= 1
    limiter.record_attempt(attempt("bob", "10.0.0.99"))
    for number in range(2000):
        clock.now += 31
        limiter.record_attempt(attempt("ann", f"10.1.{number // 250}.{number % 250}"))
    assert _refused_for(limiter, "ann", "10.0.0.98") <= 31


def test_an_address_is_guarded_over_many_accounts_and_a_whole_ipv6_network_is_one() -> None:
    limiter = LoginRateLimiter(Clock())
    for number in range(LoginRateLimiter.FREE_ATTEMPTS):
        limiter.record_attempt(attempt(f"user{number}", f"2001:db8::{number + 1}"))
    assert _refused_for(limiter, "other", "2001:db8::ffff") >= 1
    limiter.record_attempt(attempt("other", "2001:db8:0:1::1"))


def test_a_success_takes_its_attempt_back_and_no_more() -> None:
    limiter = LoginRateLimiter(Clock())
    for _ in range(3 * LoginRateLimiter.FREE_ATTEMPTS):
        limiter.record_attempt(attempt("ann", "10.0.0.1"))
        limiter.record_success(attempt("ann", "10.0.0.1"))
    for number in range(LoginRateLimiter.FREE_ATTEMPTS - 1):
        limiter.record_attempt(attempt(f"user{number}", "10.0.0.1"))
    limiter.record_attempt(attempt("ann", "10.0.0.1"))  # the guesser's own account
    limiter.record_success(attempt("ann", "10.0.0.1"))
    limiter.record_attempt(attempt("last", "10.0.0.1"))
    assert _refused_for(limiter, "next", "10.0.0.1") >= 1


def test_success_frees_the_address_at_once() -> None:
    limiter = LoginRateLimiter(Clock())
    for number in range(LoginRateLimiter.FREE_ATTEMPTS):
        limiter.record_attempt(attempt(f"user{number}", "10.0.0.1"))
    limiter.record_success(attempt("user4", "10.0.0.1"))
    limiter.record_attempt(attempt("user5", "10.0.0.1"))


def test_success_of_what_was_forgotten_is_none() -> None:
    LoginRateLimiter(Clock()).record_success(attempt("ann", "10.0.0.1"))


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
        limiter.record_attempt(attempt(f"user{number}", one))
    if same:
        _refused_for(limiter, "other", other)
    else:
        limiter.record_attempt(attempt("other", other))


def test_what_is_long_ago_is_forgotten() -> None:
    clock = Clock()
    limiter = LoginRateLimiter(clock)
    for _ in range(LoginRateLimiter.FREE_ATTEMPTS):
        limiter.record_attempt(attempt("ann", "10.0.0.1"))
    clock.now += LoginRateLimiter.RECORD_TTL_S
    limiter.record_attempt(attempt("ann", "10.0.0.1"))
    assert _refused_for(limiter, "ann", "10.0.0.1") == 3  # not yet
    clock.now += LoginRateLimiter.RECORD_TTL_S + 1
    for _ in range(LoginRateLimiter.FREE_ATTEMPTS):
        limiter.record_attempt(attempt("ann", "10.0.0.1"))


def test_the_memory_of_guesses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LoginRateLimiter, "MAX_RECORDS", 20)
    limiter = LoginRateLimiter(Clock())
    for number in range(200):
        address = f"10.0.{number // 250}.{number % 250}"
        limiter.record_attempt(attempt(f"user{number}", address))
        limiter.record_attempt(attempt(f"made up {number}", address, exists=False))
        limiter.record_attempt(attempt(f"user{number}", address, device=f"device{number}"))
    tables = (limiter._accounts, limiter._unknown_names, limiter._addresses, limiter._devices)
    assert [len(table) for table in tables] == [20] * 4


def test_what_is_refused_leaves_no_record() -> None:
    limiter = LoginRateLimiter(Clock())
    for number in range(LoginRateLimiter.FREE_ATTEMPTS):
        limiter.record_attempt(attempt(f"user{number}", "10.0.0.1"))
    for number in range(100):
        _refused_for(limiter, f"made up {number}", "10.0.0.1", exists=False)
        _refused_for(limiter, f"other {number}", "10.0.0.1")
    assert len(limiter._unknown_names) == 0
    assert len(limiter._accounts) == LoginRateLimiter.FREE_ATTEMPTS
    assert len(limiter._addresses) == 1


def test_made_up_names_push_out_neither_an_account_nor_an_address() -> None:
    limiter = LoginRateLimiter(Clock())
    for _ in range(LoginRateLimiter.FREE_ATTEMPTS):
        limiter.record_attempt(attempt("ann", "10.0.0.1"))
    for number in range(LoginRateLimiter.MAX_RECORDS + 50):
        # As many as the limit of their addresses lets through.
        with contextlib.suppress(RateLimited):
            limiter.record_attempt(attempt(f"made up {number}", f"10.0.1.{number % 9}", exists=False))
    _refused_for(limiter, "ann", "10.0.0.1")
    _refused_for(limiter, "ann", "10.9.9.9")
    _refused_for(limiter, "bob", "10.0.0.1")


def test_a_name_that_no_account_has_is_delayed_like_one_that_exists() -> None:
    waits: dict[bool, list[int]] = {True: [], False: []}
    for exists, found in waits.items():
        clock = Clock()
        limiter = LoginRateLimiter(clock)
        for number in range(9):
            limiter_attempt = attempt("Ann" if number % 2 else "ANN", f"10.0.0.{number}", exists=exists)
            try:
                limiter.record_attempt(limiter_attempt)
                found.append(0)
            except RateLimited as error:
                found.append(error.retry_after_s or 0)
                clock.now += found[-1]
    assert waits[True] == waits[False]


def test_guesses_from_elsewhere_delay_neither_a_known_device_nor_a_known_address() -> None:
    clock = Clock()
    limiter = LoginRateLimiter(clock)
    for second in range(600):
        clock.now = float(second)
        for guesser in range(12):
            with contextlib.suppress(RateLimited):
                limiter.record_attempt(attempt("ann", f"10.0.{second % 200}.{guesser}"))
        _refused_for(limiter, "ann", "10.9.9.9")
        for owner in (
            attempt("ann", "10.0.0.0", device="laptop"),
            attempt("ann", "192.0.2.1", is_known_address=True),
        ):
            limiter.record_attempt(owner)
            limiter.record_success(owner)


def test_a_known_device_and_a_known_address_may_not_guess_without_end() -> None:
    limiter = LoginRateLimiter(Clock())
    for _ in range(LoginRateLimiter.FREE_ATTEMPTS):
        limiter.record_attempt(attempt("ann", "10.0.0.1", device="laptop"))
        limiter.record_attempt(attempt("ann", "10.0.0.2", is_known_address=True))
    assert _refused_for(limiter, "ann", "10.0.0.9", device="laptop") >= 1
    assert _refused_for(limiter, "ann", "10.0.0.2", is_known_address=True) >= 1
    # Of the account itself and of others nothing was used up.
    limiter.record_attempt(attempt("ann", "10.0.0.9"))
    limiter.record_attempt(attempt("ann", "10.0.0.9", device="phone"))


def test_the_owners_success_leaves_the_record_of_those_who_guess() -> None:
    limiter = LoginRateLimiter(Clock())
    for number in range(LoginRateLimiter.FREE_ATTEMPTS):
        limiter.record_attempt(attempt("ann", f"10.0.0.{number}"))
    owner = attempt("ann", "192.0.2.1", device="laptop")
    limiter.record_attempt(owner)
    limiter.record_success(owner)
    _refused_for(limiter, "ann", "10.0.0.99")
