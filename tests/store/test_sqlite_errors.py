"""SQLite errors that disk or host cause, and those that are bugs."""

from __future__ import annotations

import sqlite3

import pytest

from llb.store.database_file import DatabaseFileLost
from llb.store.sqlite_errors import describe_sqlite_error


def error_of(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("of the library")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (sqlite3.SQLITE_FULL, "storage_full"),
        (sqlite3.SQLITE_BUSY, "database_in_use"),
        # Extended codes are told like the primary one that they belong to.
        (sqlite3.SQLITE_BUSY_SNAPSHOT, "database_in_use"),
        (sqlite3.SQLITE_IOERR_FSYNC, "storage_broken"),
        (sqlite3.SQLITE_CANTOPEN_ISDIR, "database_not_opened"),
        (sqlite3.SQLITE_READONLY_DIRECTORY, "database_read_only"),
        (sqlite3.SQLITE_READONLY_DBMOVED, "database_moved"),
        (sqlite3.SQLITE_CORRUPT_INDEX, "database_is_damaged"),
        (sqlite3.SQLITE_NOTADB, "database_is_damaged"),
    ],
)
def test_a_cause_outside_llb_has_a_sentence(code: int, name: str) -> None:
    described = describe_sqlite_error(error_of(code))
    assert described is not None
    assert described.code == name
    assert "of the library" not in described


@pytest.mark.parametrize(
    "code", [sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISUSE]
)
def test_a_bug_has_none(code: int) -> None:
    assert describe_sqlite_error(error_of(code)) is None


def test_an_error_without_a_code_has_none_and_a_lost_file_has_its_own() -> None:
    assert describe_sqlite_error(sqlite3.ProgrammingError("Cannot operate on a closed database.")) is None
    lost = describe_sqlite_error(DatabaseFileLost("x"))
    assert lost is not None
    assert lost.code == "database_moved"
