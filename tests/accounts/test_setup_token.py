"""Setup token: one at a time, for a day, until it is used."""

from __future__ import annotations

import pytest

from llb.accounts.setup_token import SETUP_TOKEN_TTL_S, SetupToken
from llb.errors import InvalidCredentials


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def is_valid(setup: SetupToken, token: str) -> bool:
    try:
        setup.check(token)
    except InvalidCredentials:
        return False
    return True


def test_a_token_is_valid_until_it_is_used() -> None:
    setup = SetupToken(Clock())
    assert not is_valid(setup, "")
    token = setup.issue()
    assert is_valid(setup, token)
    assert is_valid(setup, token)
    assert not is_valid(setup, token + "x")
    assert not is_valid(setup, "\udcff")
    setup.revoke()
    assert not is_valid(setup, token)


def test_a_new_token_ends_the_one_before() -> None:
    setup = SetupToken(Clock())
    first, second = setup.issue(), setup.issue()
    assert first != second
    assert (is_valid(setup, first), is_valid(setup, second)) == (False, True)


@pytest.mark.parametrize(("age_s", "valid"), [(SETUP_TOKEN_TTL_S - 1, True), (SETUP_TOKEN_TTL_S, False)])
def test_a_token_ends_after_a_day(age_s: float, valid: bool) -> None:
    clock = Clock()
    setup = SetupToken(clock)
    token = setup.issue()
    clock.now += age_s
    assert is_valid(setup, token) is valid
