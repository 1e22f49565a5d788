"""The home's database as a whole: opened, saved, put back."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from llb.base import platform_compat, runfile
from llb.cli import model_backup, output
from llb.cli.errors import Failure
from llb.cli.main import home_of
from llb.config import load_config, make_config
from llb.store.backup import restore as restore_database
from llb.store.database import Database
from llb.store.tables import audit
from llb.store.tables.replicas import FileFingerprint


def database_path(home: Path) -> Path:
    return make_config(home=home).database_path


@asynccontextmanager
async def opened(home: Path) -> AsyncIterator[Database]:
    """The database of `home`, made if it is not there yet. Raises `SetupError`."""
    db = await Database.open(database_path(home))
    try:
        yield db
    finally:
        await db.close()


def require_database(home: Path) -> None:
    """Raises `Failure` where there is nothing to list or to change, instead of making an empty home."""
    if not database_path(home).exists():
        raise Failure(
            f"There is no llb in {home} yet: start it once with 'llb', or name its home with --home."
        )


def backup(options: argparse.Namespace) -> int:
    """`llb backup FILE`"""
    home, target = home_of(options), Path(options.file).expanduser().absolute()
    require_database(home)
    _check_target(database_path(home), target, force=options.force)

    async def work() -> list[tuple[str, FileFingerprint]]:
        async with opened(home) as db:
            async with db.write() as tx:
                await audit.record(tx, actor="local", action="database.backup", target=target.name)
            await db.backup(target)
            return await model_backup.verified(db)

    files = asyncio.run(work())
    said = f"Saved to {target} ({output.size(target.stat().st_size)})."
    if options.models is None:
        output.say(f"{said} Model files are not in it: they are fetched again.")
        return 0
    directory = Path(options.models).expanduser().absolute()
    count, size_bytes = model_backup.copy(files, load_config({"home": str(home)}).models_dir, directory)
    output.say(f"{said} {count} model files copied to {directory} ({output.size(size_bytes)}).")
    return 0


def restore(options: argparse.Namespace) -> int:
    """`llb restore FILE`"""
    home, source = home_of(options), Path(options.file).expanduser().absolute()
    path = database_path(home)
    if not source.is_file():
        raise Failure(f"There is no file {source}.")
    models = None if options.models is None else Path(options.models).expanduser().absolute()
    if models is not None and not models.is_dir():
        raise Failure(f"There is no directory {models}.")
    if path.exists() and not output.confirmed(
        f"Replace the database in {home}? The present one is kept beside it.", yes=options.yes
    ):
        raise Failure("Nothing was restored.")
    platform_compat.make_private_dir(home)
    lock = platform_compat.try_lock_file(home / runfile.LOCK_NAME)
    if lock is None:
        raise Failure(f"llb is running on {home}: stop it first, then restore.")
    try:
        kept = restore_database(source, path)

        async def note() -> list[tuple[str, FileFingerprint]]:
            async with opened(home) as db:
                async with db.write() as tx:
                    await audit.record(tx, actor="local", action="database.restore", target=source.name)
                return await model_backup.verified(db)

        files = asyncio.run(note())
        count = 0
        if models is not None:
            count, _ = model_backup.copy(files, models, load_config({"home": str(home)}).models_dir)
    finally:
        lock.close()
    output.say(f"Restored from {source}{f', with {count} model files' if models is not None else ''}.")
    if kept is not None:
        output.say(f"The previous database is kept as {kept}.")
    return 0


def _check_target(database: Path, target: Path, *, force: bool) -> None:
    if target.is_dir():
        raise Failure(f"{target} is a directory: name a file in it.")
    if not target.parent.is_dir():
        raise Failure(f"There is no directory {target.parent}.")
    if target.exists():
        if target.samefile(database):
            raise Failure(f"{target} is the database itself: name another file.")
        if not force:
            raise Failure(f"{target} exists already: name another file, or say --force.")
