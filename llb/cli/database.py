"""The home's database as a whole: opened, saved, put back."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from llb.base import platform_compat, runfile
from llb.cli import model_backup, output
from llb.cli.errors import CommandError
from llb.cli.main import home_of
from llb.config import load_config, make_config
from llb.store.backup import restore_database
from llb.store.database import Database
from llb.store.tables import audit
from llb.store.tables.replicas import FileFingerprint


def database_path(home: Path) -> Path:
    return make_config(home=home).database_path


@asynccontextmanager
async def open_database(home: Path) -> AsyncIterator[Database]:
    """The database of `home`, made if it is not there yet. Raises `SetupError`."""
    db = await Database.open(database_path(home))
    try:
        yield db
    finally:
        await db.close()


def require_database(home: Path) -> None:
    """Raises `Failure` where there is nothing to list or to change, instead of making an empty home."""
    if not database_path(home).exists():
        raise CommandError(
            f"There is no llb in {home} yet: start it once with 'llb', or name its home with --home."
        )


def backup(options: argparse.Namespace) -> int:
    """`llb backup FILE`"""
    home, target = home_of(options), Path(options.file).expanduser().absolute()
    require_database(home)
    _check_backup_path(database_path(home), target, force=options.force)

    async def work() -> list[tuple[str, FileFingerprint]]:
        async with open_database(home) as db:
            async with db.write() as tx:
                await audit.record(tx, actor="local", action="database.backup", target=target.name)
            await db.backup(target)
            return await model_backup.list_verified_files(db)

    files = asyncio.run(work())
    said = f"Saved to {target} ({output.format_size(target.stat().st_size)})."
    if options.models is None:
        output.print_line(f"{said} Model files are not in it: they are fetched again.")
        return 0
    directory = Path(options.models).expanduser().absolute()
    count, size_bytes = model_backup.copy_files(files, load_config({"home": str(home)}).models_dir, directory)
    output.print_line(f"{said} {count} model files copied to {directory} ({output.format_size(size_bytes)}).")
    return 0


def restore(options: argparse.Namespace) -> int:
    """`llb restore FILE`"""
    home, source = home_of(options), Path(options.file).expanduser().absolute()
    path = database_path(home)
    if not source.is_file():
        raise CommandError(f"There is no file {source}.")
    models = None if options.models is None else Path(options.models).expanduser().absolute()
    if models is not None and not models.is_dir():
        raise CommandError(f"There is no directory {models}.")
    if path.exists() and not output.confirm(
        f"Replace the database in {home}? The present one is kept beside it.", assume_yes=options.yes
    ):
        raise CommandError("Nothing was restored.")
    platform_compat.make_private_dir(home)
    lock = platform_compat.try_lock_file(home / runfile.LOCK_NAME)
    if lock is None:
        raise CommandError(f"llb is running on {home}: stop it first, then restore.")
    try:
        kept = restore_database(source, path)

        async def note() -> list[tuple[str, FileFingerprint]]:
            async with open_database(home) as db:
                async with db.write() as tx:
                    await audit.record(tx, actor="local", action="database.restore", target=source.name)
                return await model_backup.list_verified_files(db)

        files = asyncio.run(note())
        count = 0
        if models is not None:
            count, _ = model_backup.copy_files(files, models, load_config({"home": str(home)}).models_dir)
    finally:
        lock.close()
    output.print_line(f"Restored from {source}{f', with {count} model files' if models is not None else ''}.")
    if kept is not None:
        output.print_line(f"The previous database is kept as {kept}.")
    return 0


def _check_backup_path(database: Path, backup_path: Path, *, force: bool) -> None:
    if backup_path.is_dir():
        raise CommandError(f"{backup_path} is a directory: name a file in it.")
    if not backup_path.parent.is_dir():
        raise CommandError(f"There is no directory {backup_path.parent}.")
    if backup_path.exists():
        if backup_path.samefile(database):
            raise CommandError(f"{backup_path} is the database itself: name another file.")
        if not force:
            raise CommandError(f"{backup_path} exists already: name another file, or say --force.")
