"""Identity of the open database file."""

from __future__ import annotations

from pathlib import Path

import pytest

from llb.store.database_file import DatabaseFile, DatabaseFileLost


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "llb.db"
    path.write_bytes(b"1")
    return path


def remembered(path: Path) -> DatabaseFile:
    file = DatabaseFile(path)
    file.remember()
    return file


def test_a_file_that_was_not_opened_is_not_lost(tmp_path: Path) -> None:
    DatabaseFile(tmp_path / "nothing").check()


def test_a_file_that_grows_is_the_same(path: Path) -> None:
    file = remembered(path)
    path.write_bytes(b"12")
    file.check()


@pytest.mark.parametrize("kind", ["deleted", "moved", "replaced"])
def test_another_file_or_none_in_its_place_is_a_loss(path: Path, kind: str) -> None:
    file = remembered(path)
    if kind == "deleted":
        path.unlink()
    else:
        path.rename(path.with_name("away"))
        if kind == "replaced":
            path.write_bytes(b"1")
    assert file.is_lost()
    with pytest.raises(DatabaseFileLost):
        file.check()


def test_the_log_may_come_late_and_may_not_go(path: Path) -> None:
    """SQLite creates it with the first access, and keeps it until the last connection closes."""
    file = remembered(path)
    assert not file.is_lost()
    log = path.with_name("llb.db-wal")
    log.write_bytes(b"1")
    assert not file.is_lost()
    log.unlink()
    assert file.is_lost()
    # A restart opens what is there then.
    file.remember()
    assert not file.is_lost()
