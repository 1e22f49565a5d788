"""File tokens: signature, expiry and malformed texts."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from llb.errors import InvalidFileToken
from llb.security.file_token import CLOCK_SKEW_S, HOUR_S, FileToken, derive_key, expiry_of, sign, verify

KEY, NOW = derive_key("a secret"), 1_800_000_123.4
TOKEN = FileToken(sha256="ab" * 32, from_node="attic", to_node="cellar", expires_at=expiry_of(NOW))


def test_it_is_read_as_it_was_signed_and_fits_into_a_header() -> None:
    text = sign(KEY, TOKEN)
    assert re.fullmatch(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", text)
    assert verify(KEY, text, NOW) == TOKEN


@given(st.floats(min_value=0, max_value=4e9))
def test_it_is_good_for_one_to_two_hours(now: float) -> None:
    assert HOUR_S < expiry_of(now) - int(now) <= 2 * HOUR_S


def test_the_same_hour_makes_the_same_token() -> None:
    hour = NOW - NOW % HOUR_S
    assert {expiry_of(hour + passed) for passed in (0, 1, 1800.5, 3599.9)} == {expiry_of(hour)}
    assert expiry_of(hour + HOUR_S) == expiry_of(hour) + HOUR_S


def test_it_ends_and_clocks_may_differ_by_minutes() -> None:
    text, end = sign(KEY, TOKEN), TOKEN.expires_at
    assert verify(KEY, text, end + CLOCK_SKEW_S - 1) == TOKEN
    assert verify(KEY, text, NOW - 86_400) == TOKEN  # the clock of the node is a day behind
    with pytest.raises(InvalidFileToken, match="expired"):
        verify(KEY, text, end + CLOCK_SKEW_S)


@pytest.mark.parametrize(
    "changed", [{"sha256": "cd" * 32}, {"from_node": "x"}, {"to_node": "x"}, {"expires_at": 2**40}]
)
def test_nothing_in_it_can_be_changed(changed: dict[str, object]) -> None:
    body, _, _ = sign(KEY, structs.replace(TOKEN, **changed)).partition(".")
    _, _, signature = sign(KEY, TOKEN).partition(".")
    with pytest.raises(InvalidFileToken):
        verify(KEY, f"{body}.{signature}", NOW)


def test_the_key_of_another_node_opens_nothing() -> None:
    with pytest.raises(InvalidFileToken):
        verify(derive_key("another secret"), sign(KEY, TOKEN), NOW)


@given(st.text())
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(InvalidFileToken):
        verify(KEY, text, NOW)


@pytest.mark.parametrize("end", ["", "=", "A", "."])
def test_not_even_its_ending_may_differ(end: str) -> None:
    text = sign(KEY, TOKEN)
    with pytest.raises(InvalidFileToken):
        verify(KEY, text[:-1] + end if not end else text + end, NOW)
