"""`llb secrets`: the key file of the stored provider keys."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from llb.accounts.audit_actor import audit_actor_of
from llb.cli import output
from llb.cli.client import require_not_joined
from llb.cli.host.database import open_database, require_database
from llb.cli.options import home_of
from llb.security.permissions import LOCAL_PRINCIPAL
from llb.security.secret_box import KEY_FILE_NAME, SealedSecret, SecretBox, SecretOwner
from llb.store.tables import audit, endpoints
from llb.store.tables.endpoints import SECRET_TABLE


def show(options: argparse.Namespace) -> int:
    """`llb secrets`"""
    home = home_of(options)
    require_not_joined(home)
    require_database(home)

    async def count() -> int:
        async with open_database(home) as db:
            return sum(record.key is not None for record in await endpoints.list_endpoints(db))

    stored = asyncio.run(count())
    if not stored:
        output.print_line("No provider key is stored.")
        return 0
    noun = "key" if stored == 1 else "keys"
    output.print_line(f"{stored} {noun} of providers stored, encrypted with {home / KEY_FILE_NAME}")
    return 0


def rotate(options: argparse.Namespace) -> int:
    """`llb secrets rotate`"""
    home = home_of(options)
    require_not_joined(home)
    require_database(home)
    count, unreadable = asyncio.run(_rotate(home))
    if not count and not unreadable:
        output.print_line("No provider key is stored.")
        return 0
    output.print_line(f"{count} {'key is' if count == 1 else 'keys are'} encrypted with a new key file.")
    for name in unreadable:
        output.print_note(f"The key of endpoint '{name}' could not be read: enter it again.")
    return 1 if unreadable else 0


async def _rotate(home: Path) -> tuple[int, list[str]]:
    """Encrypt all stored keys again; returns their number, and the endpoints whose keys cannot be read."""
    async with open_database(home) as db:
        if not any(record.key for record in await endpoints.list_endpoints(db)):
            return 0, []
        box = SecretBox(home / KEY_FILE_NAME)
        box.begin_rotation()
        async with db.write() as tx:
            # Read in the transaction: a running server may have stored one meanwhile.
            records = {record.id: record for record in await endpoints.list_endpoints(tx)}
            sealed = [
                SealedSecret(SecretOwner(SECRET_TABLE, record.id, record.base_url), record.key)
                for record in records.values()
                if record.key is not None
            ]
            resealed, unreadable = box.reseal(sealed)
            for row in resealed:
                await endpoints.set_key(tx, row.owner.row_id, row.sealed)
            await audit.record(
                tx,
                actor=audit_actor_of(LOCAL_PRINCIPAL),
                action="secrets.rotate",
                target=f"{len(resealed)} keys",
            )
        # Only now: what was committed needs the new key alone.
        box.end_rotation()
    return len(resealed), [records[owner.row_id].name for owner in unreadable]
