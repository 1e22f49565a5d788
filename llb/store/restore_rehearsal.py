"""Rehearsal of a restore: a backup is restored into a temporary directory, opened and read."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from llb.store.backup import restore_database
from llb.store.database import Database
from llb.store.tables import endpoints, keys, nodes, registrations, request_history, users
from llb.store.tables.endpoints import EndpointRecord


class RehearsedBackup(Struct, frozen=True):
    """Contents of a backup. `unreadable_endpoints`: names of those whose key cannot be read."""

    has_checksum: bool
    users: int
    keys: int
    nodes: int
    models: int
    requests: int
    provider_keys: int
    unreadable_endpoints: tuple[str, ...]


async def rehearse_restore(backup: Path, can_read_key: Callable[[EndpointRecord], bool]) -> RehearsedBackup:
    """Restore `backup` into a temporary directory, which is removed again, and read its tables.

    `can_read_key` says whether the key of an endpoint can be decrypted: the key file is not in the backup.
    Raises what `restore_database` raises, for a backup that could not be restored.
    """
    with tempfile.TemporaryDirectory(prefix="llb-restore-", ignore_cleanup_errors=True) as directory:
        path = Path(directory) / "llb.db"
        restored = restore_database(backup, path)
        db = await Database.open(path)
        try:
            # Reading decodes each row: a value that this llb does not understand shows here.
            with_key = [record for record in await endpoints.list_endpoints(db) if record.key is not None]
            return RehearsedBackup(
                has_checksum=restored.has_checksum,
                users=len(await users.list_users(db)),
                keys=len(await keys.list_keys(db)),
                nodes=len(await nodes.list_nodes(db)),
                models=sum(each.is_active for each in await registrations.list_registrations(db)),
                requests=await request_history.count_requests(db),
                provider_keys=len(with_key),
                unreadable_endpoints=tuple(each.name for each in with_key if not can_read_key(each)),
            )
        finally:
            await db.close()
