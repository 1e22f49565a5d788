"""Provider keys at rest: owner binding, key file, rotation, damage."""

from __future__ import annotations

import base64
import multiprocessing
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from llb.security.secret_box import (
    KEY_FILE_NAME,
    SealedSecret,
    SecretBox,
    SecretFault,
    SecretOwner,
    SecretUnreadable,
    last_four,
)

SECRET = "sk-proj-0123456789abcdefghij"
OWNER = SecretOwner("endpoints", "7", "https://api.openai.com/v1")


@pytest.fixture
def box(tmp_path: Path) -> SecretBox:
    return SecretBox(tmp_path / KEY_FILE_NAME)


def fault_of(box: SecretBox, sealed: str, owner: SecretOwner = OWNER) -> SecretFault:
    with pytest.raises(SecretUnreadable) as caught:
        box.open(sealed, owner)
    assert SECRET not in str(caught.value)
    assert caught.value.message.endswith(".")
    return caught.value.fault


def test_a_secret_is_read_by_its_owner_alone(box: SecretBox) -> None:
    sealed = box.seal(SECRET, OWNER)
    assert SECRET not in sealed
    assert sealed.startswith("llb1:")
    assert box.open(sealed, OWNER) == SECRET
    for other in (
        replace(OWNER, table="nodes"),
        replace(OWNER, row_id="8"),
        replace(OWNER, base_url="https://evil.example/v1"),
        SecretOwner("endpoints7", "", OWNER.base_url),
    ):
        assert fault_of(box, sealed, other) is SecretFault.ADDRESS_CHANGED


def test_equal_secrets_differ_when_sealed(box: SecretBox) -> None:
    assert len({box.seal(SECRET, OWNER) for _ in range(50)}) == 50


@given(st.text(min_size=1, max_size=200).filter(lambda text: text.isprintable()))
def test_any_text_is_kept(secret: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        box = SecretBox(Path(directory) / KEY_FILE_NAME)
        assert box.open(box.seal(secret, OWNER), OWNER) == secret


def test_the_key_file_is_made_at_first_use_for_its_owner_only(box: SecretBox) -> None:
    assert not box.key_file.exists()
    sealed = box.seal(SECRET, OWNER)
    if os.name == "posix":
        assert stat.S_IMODE(box.key_file.stat().st_mode) == 0o600
        box.key_file.chmod(0o644)
        assert SecretBox(box.key_file).open(sealed, OWNER) == SECRET
        assert stat.S_IMODE(box.key_file.stat().st_mode) == 0o600
    assert SecretBox(box.key_file).open(sealed, OWNER) == SECRET


def test_a_missing_wrong_or_damaged_key_file_is_told_apart(box: SecretBox, tmp_path: Path) -> None:
    sealed = box.seal(SECRET, OWNER)
    key = box.key_file.read_bytes()
    box.key_file.unlink()
    assert fault_of(SecretBox(box.key_file), sealed) is SecretFault.KEY_FILE_MISSING
    other = SecretBox(box.key_file)
    other.seal("another secret", OWNER)
    assert fault_of(SecretBox(box.key_file), sealed) is SecretFault.WRONG_KEY
    for damaged in (b"", key[:-9], key.replace(b"llb-secrets-1:", b""), b"\xff" * 40):
        box.key_file.write_bytes(damaged)
        assert fault_of(SecretBox(box.key_file), sealed) is SecretFault.KEY_FILE_BROKEN
    box.key_file.unlink()
    box.key_file.mkdir()
    assert fault_of(SecretBox(box.key_file), sealed) is SecretFault.KEY_FILE_BROKEN


def test_a_damaged_row_is_no_crash(box: SecretBox) -> None:
    sealed = box.seal(SECRET, OWNER)
    prefix, key_id, data = sealed.split(":")
    for broken in (
        "",
        SECRET,
        "llb1:",
        f"{prefix}:{key_id}:",
        f"llb9:{key_id}:{data}",
        f"{prefix}:{key_id}:é",
    ):
        assert fault_of(box, broken) is SecretFault.MALFORMED
    flipped = bytearray(base64.urlsafe_b64decode(data))
    flipped[-1] ^= 1
    tampered = f"{prefix}:{key_id}:{base64.urlsafe_b64encode(flipped).decode()}"
    assert fault_of(box, tampered) is SecretFault.ADDRESS_CHANGED


def test_a_rotation_reencrypts_all_rows_and_drops_the_old_key(box: SecretBox) -> None:
    rows = [
        SealedSecret(owner := replace(OWNER, row_id=str(n)), box.seal(f"{SECRET}{n}", owner))
        for n in range(3)
    ]
    lost = SealedSecret(OWNER, "llb1:00000000:" + rows[0].sealed.split(":")[2])
    server = SecretBox(box.key_file)
    server.open(rows[0].sealed, rows[0].owner)  # has the old key in memory
    box.begin_rotation()
    written_meanwhile = SealedSecret(OWNER, server.seal(SECRET, OWNER))
    resealed, unreadable = box.reseal([*rows, lost, written_meanwhile])
    box.end_rotation()
    assert unreadable == [OWNER]
    assert len(resealed) == 4
    assert [server.open(row.sealed, row.owner) for row in resealed] == [f"{SECRET}{n}" for n in range(3)] + [
        SECRET
    ]
    assert SecretBox(box.key_file).open(resealed[0].sealed, resealed[0].owner) == f"{SECRET}0"
    assert fault_of(SecretBox(box.key_file), rows[0].sealed, rows[0].owner) is SecretFault.WRONG_KEY
    assert len(box.key_file.read_bytes().split()) == 1


def test_a_rotation_that_was_cut_short_loses_nothing(box: SecretBox) -> None:
    before = box.seal(SECRET, OWNER)
    box.begin_rotation()
    assert SecretBox(box.key_file).open(before, OWNER) == SECRET
    box.begin_rotation()
    (row,), _ = box.reseal([SealedSecret(OWNER, before)])
    box.end_rotation()
    assert SecretBox(box.key_file).open(row.sealed, OWNER) == SECRET


def seal_in_a_process(path: str, number: int) -> str:
    return SecretBox(Path(path)).seal(f"{SECRET}{number}", replace(OWNER, row_id=str(number)))


def test_processes_that_make_the_key_file_at_once_agree(tmp_path: Path) -> None:
    path = tmp_path / KEY_FILE_NAME
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        sealed = pool.starmap(seal_in_a_process, [(str(path), number) for number in range(12)])
    box = SecretBox(path)
    assert [box.open(text, replace(OWNER, row_id=str(n))) for n, text in enumerate(sealed)] == [
        f"{SECRET}{n}" for n in range(12)
    ]


def test_only_the_end_of_a_long_secret_is_shown() -> None:
    assert last_four(SECRET) == "ghij"
    assert last_four("short") == ""
