"""Migration of a database of each past schema. The dumps `schemas/schemaN.sql` never change."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from llb import __version__
from llb.store.backup import find_database_defect, restore_database
from llb.store.database import Database
from llb.store.migrations import MIGRATIONS, migrate
from llb.store.schema import VERSION_KEY
from llb.store.tables import audit, keys, nodes, registrations, request_history, settings, users
from tests.conftest import BalancerFactory
from tests.store.tables.request_rows import EVERYBODY, keep, request

pytestmark = pytest.mark.usefixtures("real_migrations")

SCHEMAS = Path(__file__).parent / "schemas"
VERSIONS = range(1, len(MIGRATIONS) + 1)
KEY = "sk-" + "0123456789abcdef" * 3
# Columns that later schemas added, with their values in older rows.
ADDED: dict[str, dict[str, object]] = {
    "api_keys": {"limits": None, "ceiling": None, "parent_id": None},
    "audit": {"actor_id": "ann", "class": "login"},
    "conversations": {"settings_bytes": 65},
    "nodes": {"hop_credential": None, "last_seen": None},
    "registrations": {"pinned": 1, "options": None, "placement": None, "error_code": None},
    "replicas": {"error_code": None},
    "requests": {"endpoint_id": None, "cost_usd": None},
    "usage_days": {"cost_usd": None},
    "usage_hours": {"cost_usd": None},
}


def old_database(path: Path, version: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as old:
        old.executescript((SCHEMAS / f"schema{version}.sql").read_text(encoding="utf-8"))


def rows_of(path: Path) -> dict[str, list[dict[str, object]]]:
    with closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        tables = [
            row[0]
            for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if not row[0].startswith("sqlite_")
        ]
        return {
            name: [dict(row) for row in database.execute(f"SELECT * FROM {name}")]  # noqa: S608  # our own tables
            for name in tables
        }


def test_there_is_a_dump_of_every_schema() -> None:
    assert {path.name for path in SCHEMAS.iterdir()} == {f"schema{version}.sql" for version in VERSIONS}


@pytest.mark.parametrize("version", VERSIONS)
async def test_every_row_is_still_there(tmp_path: Path, version: int) -> None:
    path = tmp_path / "llb.db"
    old_database(path, version)
    before = rows_of(path)
    db = await Database.open(path)
    try:
        user = await users.get_by_name(db, "ANN")
        assert user is not None
        assert user.id == "u1"
        [key] = await keys.list_keys(db)
        assert (key.name, key.owner_name, len(key.scopes)) == ("laptop", "ann", 2)
        [node] = await nodes.list_nodes(db)
        assert (node.name, node.draining, node.tags) == ("garage", True, ("gpu",))
        [registration] = await registrations.list_registrations(db)
        assert (registration.model_id, registration.attempt, registration.pinned) == ("tiny", 2, True)
        assert await settings.get(db, "cluster_id") == "0123456789abcdef"
        [act] = await audit.list_newest(db)
        assert (act.actor, act.action) == ("ann", "login")
    finally:
        await db.close()
    after = rows_of(path)
    noted = {"key": VERSION_KEY, "value": __version__}
    assert (noted in after["settings"]) == (version < len(MIGRATIONS))
    after["settings"] = [row for row in after["settings"] if row != noted]
    for table, rows in before.items():
        assert after[table] == [{**ADDED.get(table, {}), **row} for row in rows], table
    kept = tmp_path / f"llb-schema{version}.backup.db"
    assert kept.exists() is (version < len(MIGRATIONS))
    if kept.exists():
        assert rows_of(kept) == before


@pytest.mark.parametrize("version", VERSIONS)
def test_a_backup_of_every_schema_can_be_restored(tmp_path: Path, version: int) -> None:
    backup, path = tmp_path / "saved.db", tmp_path / "home" / "llb.db"
    old_database(backup, version)
    assert find_database_defect(backup) is None
    assert restore_database(backup, path).kept is None
    assert rows_of(path)["users"] == rows_of(backup)["users"]


@pytest.mark.parametrize("version", [1, len(MIGRATIONS)])
async def test_an_old_key_opens_the_new_llb(make_llb: BalancerFactory, tmp_path: Path, version: int) -> None:
    old_database(tmp_path / "home" / "llb.db", version)
    llb = await make_llb().start()
    answer = await llb.http.get("/api/models", headers={"Authorization": f"Bearer {KEY}"})
    assert answer.status_code == 200
    nodes_now = (await llb.http.get("/api/nodes")).json()["nodes"]
    assert {node["name"] for node in nodes_now} == {"attic", "garage"}


async def test_an_older_database_gets_its_history(tmp_path: Path) -> None:
    path = tmp_path / "llb.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as old:
        migrate(old, MIGRATIONS[:1])
        old.execute("INSERT INTO users VALUES ('u', 'ann', 'hash', 'admin', 0, 1.0)")
        old.execute("INSERT INTO api_keys VALUES ('k', 'laptop', 'h', 'sk-', '[]', 'u', NULL, 1.0, NULL)")
    db = await Database.open(path)
    try:
        await keep(db, request())
        async with db.write() as tx:
            await keys.remove(tx, "k")
        [record] = await request_history.list_page(db, EVERYBODY)
        assert (record.key_name, record.username) == ("laptop", "ann")
    finally:
        await db.close()
    assert (tmp_path / "llb-schema1.backup.db").exists()


async def test_an_old_and_a_new_database_have_the_same_schema(db: Database, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "old.db", isolation_level=None)) as old:
        migrate(old, MIGRATIONS[:1])
        migrate(old)
        theirs = old.execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall()
    ours = await db.fetch_all("SELECT sql FROM sqlite_master ORDER BY name")
    assert [tuple(row) for row in ours] == theirs
