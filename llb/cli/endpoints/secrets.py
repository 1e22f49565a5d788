"""`llb secrets`: the key file of the stored provider keys and of the token of the Hub."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from llb.accounts.audit_actor import audit_actor_of
from llb.cli import output
from llb.cli.client import require_not_joined
from llb.cli.host.database import open_database, require_database
from llb.cli.host.sealed_secrets import list_sealed
from llb.cli.options import home_of
from llb.cluster.stored_settings import format_secret_row
from llb.security.permissions import LOCAL_PRINCIPAL
from llb.security.secret_box import KEY_FILE_NAME, SecretBox
from llb.store.tables import audit, endpoints, settings
from llb.store.tables.endpoints import SECRET_TABLE


def show(options: argparse.Namespace) -> int:
    """`llb secrets`"""
    home = home_of(options)
    require_not_joined(home)
    require_database(home)

    async def count() -> int:
        async with open_database(home) as db:
            return len(await list_sealed(db))

    stored = asyncio.run(count())
    if not stored:
        output.print_line("No secret is stored.")
        return 0
    noun = "secret" if stored == 1 else "secrets"
    output.print_line(f"{stored} {noun} stored, encrypted with {home / KEY_FILE_NAME}")
    return 0


def rotate(options: argparse.Namespace) -> int:
    """`llb secrets rotate`"""
    home = home_of(options)
    require_not_joined(home)
    require_database(home)
    count, unreadable = asyncio.run(_rotate(home))
    if not count and not unreadable:
        output.print_line("No secret is stored.")
        return 0
    output.print_line(
        f"{count} {'secret is' if count == 1 else 'secrets are'} encrypted with a new key file."
    )
    for name in unreadable:
        output.print_note(f"{name} could not be read: enter it again.")
    return 1 if unreadable else 0


async def _rotate(home: Path) -> tuple[int, list[str]]:
    """Encrypt all stored secrets again; returns their number, and the names of those that cannot be read."""
    async with open_database(home) as db:
        if not await list_sealed(db):
            return 0, []
        box = SecretBox(home / KEY_FILE_NAME)
        box.begin_rotation()
        async with db.write() as tx:
            # Read in the transaction: a running server may have stored one meanwhile.
            names = await list_sealed(tx)
            resealed, unreadable = box.reseal(names)
            stored_settings = await settings.get_stored(tx)
            for row in resealed:
                if row.owner.table == SECRET_TABLE:
                    await endpoints.set_key(tx, row.owner.row_id, row.sealed)
                else:
                    stored_settings[row.owner.row_id] = format_secret_row(row)
            await settings.put_stored(tx, stored_settings)
            await audit.record(
                tx,
                actor=audit_actor_of(LOCAL_PRINCIPAL),
                action="secrets.rotate",
                target=f"{len(resealed)} secrets",
            )
        # Only now: what was committed needs the new key alone.
        box.end_rotation()
    return len(resealed), [name for row, name in names.items() if row.owner in unreadable]
