"""Restore of a database from a backup: what is refused, and that a refusal changes nothing."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from llb.errors import SetupError
from llb.store import backup as backup_module
from llb.store.backup import find_database_defect, open_read_only, restore_database
from llb.store.schema import checksum_trailer, prepare_database, save_copy
from llb.store.tables import users

KEY = "INSERT INTO api_keys (id, name, hash, prefix, scopes, created_at) VALUES (?1, ?1, ?1, 'sk-', '[]', 1)"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Directory with a database that has the key `now`, and with a backup of when it had the key `then`."""
    home = tmp_path / "home"
    path = home / "llb.db"
    prepare_database(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(KEY, ("then",))
        save_copy(connection, tmp_path / "saved.db")
        # As in a database that never had it: it was not revoked.
        connection.execute("DELETE FROM api_keys")
        connection.execute("DELETE FROM former_names")
        connection.execute(KEY, ("now",))
    return home


def key_names(path: Path) -> list[str]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM api_keys ORDER BY name")]


def files_of(home: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in home.iterdir() if not path.name.endswith(("-shm", ".lock"))
    }


def refusal(home: Path, saved: Path) -> str:
    """Sentence with which a restore is refused, after which everything must be as it was."""
    before = files_of(home)
    with pytest.raises(SetupError) as refused:
        restore_database(saved, home / "llb.db")
    assert files_of(home) == before
    assert str(saved) in str(refused.value)
    return str(refused.value)


def test_the_previous_database_is_kept_beside_the_restored_one(home: Path, tmp_path: Path) -> None:
    restored = restore_database(tmp_path / "saved.db", home / "llb.db")
    assert restored.has_checksum
    assert key_names(home / "llb.db") == ["then"]
    assert restored.kept is not None
    assert restored.kept.parent == home
    assert key_names(restored.kept) == ["now"]
    # A second one in the same second gets a name of its own.
    again = restore_database(tmp_path / "saved.db", home / "llb.db")
    assert again.kept is not None
    assert again.kept != restored.kept
    assert not [*home.glob("*.restoring"), *home.glob("*.partial")]


def test_a_home_without_a_database_gets_one(home: Path, tmp_path: Path) -> None:
    restored = restore_database(tmp_path / "saved.db", tmp_path / "new" / "llb.db")
    assert restored.kept is None
    assert key_names(tmp_path / "new" / "llb.db") == ["then"]


def test_the_database_is_no_backup_of_itself(home: Path) -> None:
    assert "is the database itself" in refusal(home, home / "llb.db")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not an llb database"),
        (b"not a database, but long enough to be read as one" * 100, "not a database"),
    ],
)
def test_a_file_that_is_no_database(home: Path, tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "saved.db").write_bytes(content)
    assert reason in str(find_database_defect(tmp_path / "saved.db"))
    assert reason in refusal(home, tmp_path / "saved.db")


@pytest.mark.parametrize("kind", ["page", "end"])
def test_a_damaged_backup(home: Path, tmp_path: Path, kind: str) -> None:
    saved = tmp_path / "saved.db"
    content = bytearray(saved.read_bytes())
    if kind == "page":
        content[4096 * 2 : 4096 * 3] = b"\xff" * 4096
    else:
        del content[len(content) // 2 :]
    saved.write_bytes(content)
    assert find_database_defect(saved) is not None
    assert "cannot be restored" in refusal(home, saved)


def test_bytes_that_no_check_of_sqlite_reads(home: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved.db"
    content = bytearray(saved.read_bytes())
    page = content.rindex(bytes(2000), 0, len(content) - 200)
    content[page + 50 : page + 250] = b"\xa5" * 200
    saved.write_bytes(content)
    assert "its checksum differs" in refusal(home, saved)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("CREATE TRIGGER evil AFTER INSERT ON audit BEGIN DELETE FROM users; END", "a trigger 'evil'"),
        ("CREATE VIEW songs AS SELECT * FROM users", "a view 'songs'"),
        ("CREATE TABLE songs (name)", "a table 'songs'"),
        ("CREATE INDEX more ON audit (time)", "a index 'more'"),
        ("ALTER TABLE users ADD COLUMN songs TEXT", "its table 'users' is another one"),
        ("DROP TABLE audit", "it lacks the "),
        ("DROP TABLE users; CREATE TABLE users (name)", "it lacks the trigger 'remember_users'"),
        ("DROP TABLE settings", "it is not an llb database"),
        ("PRAGMA user_version = 0", "it is not an llb database"),
        ("PRAGMA user_version = 99", "it was written by a newer llb (schema 99"),
        ("DELETE FROM settings", "it has no revision"),
        ("UPDATE api_keys SET scopes = 'all'", "table api_keys, column scopes"),
        ("PRAGMA foreign_keys = OFF; UPDATE api_keys SET owner_id = 'nobody'", "rows refer to others"),
    ],
)
def test_a_backup_that_llb_did_not_write_so(home: Path, tmp_path: Path, script: str, reason: str) -> None:
    saved = tmp_path / "saved.db"
    # The checksum goes with the end of the file.
    saved.write_bytes(saved.read_bytes()[: -len(checksum_trailer("0" * 64))])
    with closing(sqlite3.connect(saved)) as connection:
        connection.executescript(script)
    assert reason in refusal(home, saved)


def test_a_backup_without_a_checksum_is_restored_and_told(home: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved.db"
    saved.write_bytes(saved.read_bytes()[: -len(checksum_trailer("0" * 64))])
    assert not restore_database(saved, home / "llb.db").has_checksum


def test_a_restore_that_fails_late_leaves_no_copy_behind(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise SetupError("no administrator would be left")

    monkeypatch.setattr(backup_module, "review_restored", refuse)
    before = sorted(files_of(home))
    with pytest.raises(SetupError, match="no administrator"):
        restore_database(tmp_path / "saved.db", home / "llb.db")
    assert sorted(files_of(home)) == before
    assert key_names(home / "llb.db") == ["now"]


async def test_a_read_only_look_changes_no_file(home: Path) -> None:
    before = (home / "llb.db").read_bytes()
    async with open_read_only(home / "llb.db") as db:
        assert await users.list_users(db) == []
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            await db.execute("DELETE FROM api_keys")
    assert (home / "llb.db").read_bytes() == before


async def test_a_look_at_no_file_makes_none_and_leaves_no_thread(tmp_path: Path) -> None:
    """A thread that outlives the event loop prints a traceback below the sentence of a command."""
    before = {*threading.enumerate()}
    with pytest.raises(sqlite3.OperationalError):
        async with open_read_only(tmp_path / "nothing.db"):
            pass
    begun = {*threading.enumerate()} - before
    assert not [thread for thread in begun if "_connection_worker" in thread.name]
    assert not (tmp_path / "nothing.db").exists()
