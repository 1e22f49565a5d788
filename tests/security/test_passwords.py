"""Passwords: hashes, and the rules of new ones."""

from __future__ import annotations

import pytest

from llb.errors import InvalidRequest
from llb.security import passwords
from tests import speedups


@pytest.fixture(autouse=True)
def real_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "_HASHER", speedups.REAL_HASHER)
    monkeypatch.setattr(passwords, "DUMMY_HASH", speedups.REAL_DUMMY_HASH)


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
        ("test", "This is the default password; choose another one"),
        ("1234567", "The password must have at least 8 characters"),
        ("", "The password must have at least 8 characters"),
        ("x" * 1025, "The password must have at most 1024 characters"),
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
