"""Device token: of one account, and not to be forged."""

from __future__ import annotations

import pytest

from llb.accounts.device_token import device_id_of, new_device_token

SECRET = "a secret"


def test_each_device_has_an_id_of_its_own() -> None:
    first, second = (new_device_token(SECRET, "ann") for _ in range(2))
    ids = {device_id_of(token, SECRET, "ann") for token in (first, second)}
    assert len(ids) == 2
    assert None not in ids


def test_a_token_is_of_one_account_and_one_secret() -> None:
    token = new_device_token(SECRET, "ann")
    assert device_id_of(token, SECRET, "bob") is None
    assert device_id_of(token, "another secret", "ann") is None
    # Of a name without an account, whatever the signature.
    assert device_id_of(new_device_token(SECRET, ""), SECRET, None) is None


@pytest.mark.parametrize("token", [None, "", ".", "x", "x.", ".x", "é.é", "\udcff.\udcff"])
def test_what_is_no_token_is_no_device(token: str | None) -> None:
    assert device_id_of(token, SECRET, "ann") is None


def test_an_id_cannot_be_moved_under_another_signature() -> None:
    (first, _, signature), (second, _, _) = (new_device_token(SECRET, "ann").partition(".") for _ in range(2))
    assert device_id_of(f"{first}.{signature}", SECRET, "ann") == first
    assert device_id_of(f"{second}.{signature}", SECRET, "ann") is None
