"""Preparation of a database: its upgrade with the copy from before, the refused downgrade, damaged files."""

from __future__ import annotations

import shlex
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from llb import __version__
from llb.errors import SetupError
from llb.store import schema
from llb.store.backup import restore_database
from llb.store.database import Database
from llb.store.migrations import MIGRATIONS
from llb.store.schema import prepare_database

pytestmark = pytest.mark.usefixtures("real_migrations")


def add_colour(connection: sqlite3.Connection) -> None:
    """The migration of a later version."""
    connection.execute("ALTER TABLE users ADD COLUMN colour TEXT")


NEWER = (*MIGRATIONS, add_colour)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Database of this version, with one setting."""
    path = tmp_path / "my home" / "llb.db"
    prepare_database(path)
    write_setting(path, "before")
    return path


def write_setting(path: Path, value: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("INSERT OR REPLACE INTO settings (key, value) VALUES ('noted', ?)", (value,))


def read_setting(path: Path, key: str) -> str | None:
    with closing(sqlite3.connect(path)) as database:
        row = database.execute("SELECT value FROM settings WHERE key = ?", (key,)).fetchone()
    return None if row is None else str(row[0])


def refusal(path: Path) -> str:
    with pytest.raises(SetupError) as raised:
        prepare_database(path)
    return str(raised.value)


def test_the_version_that_changed_the_schema_is_noted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_setting(path, schema.VERSION_KEY) == __version__
    monkeypatch.setattr(schema, "__version__", "9.9.0")
    prepare_database(path)
    assert read_setting(path, schema.VERSION_KEY) == __version__
    prepare_database(path, NEWER)
    assert read_setting(path, schema.VERSION_KEY) == "9.9.0"


def test_a_downgrade_names_the_copy_to_restore(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "__version__", "9.9.0")
    prepare_database(path, NEWER)
    monkeypatch.undo()
    write_setting(path, "after")
    said = refusal(path)
    copy = path.with_name(f"llb-schema{len(MIGRATIONS)}.backup.db")
    assert f"was written by a newer llb (9.9.0): it has schema {len(NEWER)}, llb {__version__} knows" in said
    words = shlex.split(said.partition(" restore ")[2].partition("' to the copy of ")[0])
    assert words == [str(copy), "--home", str(path.parent)]
    restored = restore_database(Path(words[0]), path)
    prepare_database(path)
    assert read_setting(path, "noted") == "before"
    assert restored.review.has_previous
    assert restored.kept is not None
    assert read_setting(restored.kept, "noted") == "after"


def test_a_downgrade_without_a_copy_asks_for_a_backup(path: Path) -> None:
    prepare_database(path, NEWER)
    path.with_name(f"llb-schema{len(MIGRATIONS)}.backup.db").unlink()
    path.with_name(f"llb-schema{len(NEWER)}.backup.db").touch()
    assert refusal(path).endswith("restore a backup that an older one made: 'llb restore FILE'.")


def _add_column(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE settings ADD COLUMN note TEXT")


def _fail_halfway(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE settings ADD COLUMN half TEXT")
    raise sqlite3.OperationalError("disk I/O error")


async def test_an_older_database_is_migrated_with_a_copy_kept_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "llb.db"
    prepare_database(path)
    write_setting(path, "1")

    db = await Database.open(path, (*MIGRATIONS, _add_column))
    row = await db.fetch_one("SELECT value, note FROM settings WHERE key = 'noted'")
    assert row is not None
    assert tuple(row) == ("1", None)
    await db.close()

    copy = tmp_path / f"llb-schema{len(MIGRATIONS)}.backup.db"
    assert copy.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(copy)) as old:
        assert old.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)
        assert old.execute("SELECT value FROM settings WHERE key = 'noted'").fetchone()[0] == "1"
    assert not copy.with_name(copy.name + ".partial").exists()


async def test_a_migration_that_fails_leaves_the_old_schema(tmp_path: Path) -> None:
    path = tmp_path / "llb.db"
    await (await Database.open(path)).close()
    with pytest.raises(SetupError, match="disk I/O error"):
        await Database.open(path, (*MIGRATIONS, _fail_halfway))
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        assert raw.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)
        assert "half" not in {row[1] for row in raw.execute("PRAGMA table_info(settings)")}
    await (await Database.open(path)).close()


async def test_a_database_of_a_newer_llb_is_rejected_and_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "llb.db"
    await (await Database.open(path)).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute("PRAGMA user_version = 99")
    with pytest.raises(SetupError, match="was written by a newer llb"):
        await Database.open(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        assert raw.execute("PRAGMA user_version").fetchone()[0] == 99


@pytest.mark.parametrize(
    "content", [b"this is not a database" * 500, b"SQLite format 3\x00" + b"\xff" * 5000]
)
async def test_the_error_for_an_invalid_file_names_it_and_a_remedy(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "llb.db"
    path.write_bytes(content)
    with pytest.raises(SetupError) as caught:
        await Database.open(path)
    assert str(path) in str(caught.value)
    assert "restore" in str(caught.value)
    assert path.read_bytes() == content
