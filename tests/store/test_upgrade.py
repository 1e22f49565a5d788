"""Upgrade of a database and the way back: the copy from before, the version, the refused downgrade."""

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
