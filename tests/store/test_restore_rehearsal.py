"""Rehearsal of a restore: counts of a backup, which stays as it is."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from llb.errors import SetupError
from llb.store.database import Database, Reader
from llb.store.restore_rehearsal import CheckedSecrets, RehearsedBackup, rehearse_restore
from llb.store.tables import settings
from tests.store.tables.people import add_keys, add_users, make_key, make_user


async def check_secrets(db: Reader) -> CheckedSecrets:
    """Name what the copy has under `secret`."""
    return CheckedSecrets(readable=[await settings.get(db, "secret") or ""], unreadable=[])


async def test_a_backup_is_counted_in_a_copy_that_goes(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    saved = tmp_path / "saved.db"
    await add_users(db, make_user("bob"))
    await add_keys(db, make_key("a"), make_key("b", "id-bob"))
    async with db.write() as tx:
        await tx.execute("UPDATE users SET role = 'admin'")
        await settings.put(tx, "secret", "sealed")
    await db.backup(saved)
    before = saved.read_bytes()
    assert await rehearse_restore(saved, check_secrets) == RehearsedBackup(
        has_checksum=True,
        users=1,
        keys=2,
        nodes=0,
        models=0,
        requests=0,
        secrets=CheckedSecrets(readable=["sealed"], unreadable=[]),
    )
    assert saved.read_bytes() == before
    assert [*(tmp_path / "scratch").iterdir()] == []


async def test_a_backup_that_cannot_be_restored_is_refused(db: Database, tmp_path: Path) -> None:
    saved = tmp_path / "saved.db"
    await db.backup(saved)
    saved.write_bytes(saved.read_bytes().replace(b"CREATE TABLE users", b"CREATE TABLE losers", 1))
    with pytest.raises(SetupError, match="cannot be restored"):
        await rehearse_restore(saved, check_secrets)
