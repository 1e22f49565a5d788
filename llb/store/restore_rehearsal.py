"""Rehearsal of a restore: a backup is restored into a temporary directory, opened and read."""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from msgspec import Struct

from llb.store.backup import restore_database
from llb.store.database import Database, Reader
from llb.store.tables import keys, nodes, registrations, request_history, users


class CheckedSecrets(Struct, frozen=True):
    """Names of the encrypted values that a key file opens, and of the others."""

    readable: list[str]
    unreadable: list[str]


class RehearsedBackup(Struct, frozen=True):
    """Contents of a backup."""

    has_checksum: bool
    users: int
    keys: int
    nodes: int
    models: int
    requests: int
    secrets: CheckedSecrets


async def rehearse_restore(
    backup: Path, check_secrets: Callable[[Reader], Awaitable[CheckedSecrets]]
) -> RehearsedBackup:
    """Restore `backup` into a temporary directory, which is removed again, and read its tables.

    `check_secrets` reads the encrypted values, whose key file is not in the backup.
    Raises what `restore_database` raises, for a backup that could not be restored.
    """
    with tempfile.TemporaryDirectory(prefix="llb-restore-", ignore_cleanup_errors=True) as directory:
        path = Path(directory) / "llb.db"
        restored = restore_database(backup, path)
        db = await Database.open(path)
        try:
            # Reading decodes each row: a value that this llb does not understand shows here.
            return RehearsedBackup(
                has_checksum=restored.has_checksum,
                users=len(await users.list_users(db)),
                keys=len(await keys.list_keys(db)),
                nodes=len(await nodes.list_nodes(db)),
                models=sum(each.is_active for each in await registrations.list_registrations(db)),
                requests=await request_history.count_requests(db),
                secrets=await check_secrets(db),
            )
        finally:
            await db.close()
