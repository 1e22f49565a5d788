"""Database of the data directory: open, `llb backup`, `llb restore`."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from llb.accounts.audit_actor import audit_actor_of
from llb.base import data_dir, platform_compat, runfile
from llb.cli import output
from llb.cli.errors import CommandError, UsageError
from llb.cli.grammar.host_commands import KEPT_BACKUPS
from llb.cli.host.backup_verification import VERIFY, verify_backup
from llb.cli.options import home_of
from llb.config import load_config, make_config
from llb.security.permissions import LOCAL_PRINCIPAL
from llb.store.backup import Restored, find_database_defect, open_read_only, restore_database
from llb.store.backup_rotation import save_backup
from llb.store.database import Database
from llb.store.tables import audit, registrations, replicas, settings
from llb.store.tables.replicas import FileFingerprint
from llb.wire import ReplicaState

PARTIAL_SUFFIX = ".saving"


def database_path(home: Path) -> Path:
    return make_config(home=home).database_path


@asynccontextmanager
async def open_database(home: Path) -> AsyncIterator[Database]:
    """Open the database of `home`; create it if it does not exist. Raises `SetupError`."""
    db = await Database.open(database_path(home))
    try:
        yield db
    finally:
        await db.close()


def require_database(home: Path) -> None:
    """Raise `CommandError` if `home` has no database, so that a command does not create an empty one."""
    if not database_path(home).exists():
        raise CommandError(
            f"There is no llb in {home} yet: start it once with 'llb', or give another directory with --home."
        )


def backup(options: argparse.Namespace) -> int:
    """`llb backup FILE`, `llb backup --to DIR`, `llb backup verify`"""
    if options.file == VERIFY:
        return verify_backup(options)
    if options.verified is not None:
        raise UsageError("'llb backup' writes one file; a second one is checked with 'llb backup verify'.")
    if (options.file is None) == (options.to is None):
        raise UsageError("Give a file to write, or a directory with --to.")
    if options.keep is not None and options.to is None:
        raise UsageError("--keep counts the backups of a directory: give it with --to.")
    home = home_of(options)
    target = None if options.file is None else _resolve_target(options.file)
    require_database(home)
    if target is not None:
        _check_backup_path(database_path(home), target, force=options.force)

    directory, keep = Path(options.to or "").expanduser().absolute(), options.keep or KEPT_BACKUPS

    async def save() -> tuple[Path, list[tuple[str, FileFingerprint]]]:
        actor = audit_actor_of(LOCAL_PRINCIPAL)
        async with open_database(home) as db:
            if target is None:
                return await save_backup(db, directory, keep=keep, actor=actor), await list_verified_files(db)
            async with db.write() as tx:
                await audit.record(tx, actor=actor, action="database.backup", target=target.name)
            await db.backup(target)
            return target, await list_verified_files(db)

    saved, files = asyncio.run(save())
    summary = f"Saved to {saved} ({output.format_size(saved.stat().st_size)})."
    if options.models is None:
        output.print_line(f"{summary} It contains no model files: they are downloaded again.")
        return 0
    models = Path(options.models).expanduser().absolute()
    count, size_bytes = copy_files(files, load_config({"home": str(home)}).models_dir, models)
    output.print_line(f"{summary} {count} model files copied to {models} ({output.format_size(size_bytes)}).")
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
    # Checked before the question, and before anyone stops a server in vain.
    if (defect := find_database_defect(source)) is not None:
        raise CommandError(f"{source} cannot be restored: {defect}.")
    if path.exists() and not output.confirm(
        f"Replace the database in {home}? The current one is kept beside it.", assume_yes=options.yes
    ):
        raise CommandError("Nothing was restored.")
    platform_compat.make_private_dir(home)
    lock = platform_compat.try_lock_file(home / runfile.LOCK_NAME)
    if lock is None:
        raise CommandError(f"llb is running on {home}: stop it first, then restore.")
    try:
        restored = restore_database(source, path, revive=options.revive)

        async def record_restore() -> list[tuple[str, FileFingerprint]]:
            async with open_database(home) as db:
                async with db.write() as tx:
                    await audit.record(
                        tx,
                        actor=audit_actor_of(LOCAL_PRINCIPAL),
                        action="database.restore",
                        target=source.name,
                    )
                return await list_verified_files(db)

        files = asyncio.run(record_restore())
        count = 0
        if models is not None:
            models_dir = load_config({"home": str(home)}).models_dir
            models_lock = data_dir.lock_models_dir(models_dir, home)
            try:
                count, _ = copy_files(files, models, models_dir)
            finally:
                if models_lock is not None:
                    models_lock.close()
    finally:
        lock.close()
    output.print_line(f"Restored from {source}{f', with {count} model files' if models is not None else ''}.")
    _print_restored(restored, options.file)
    unknown = find_unknown_model_files(path, load_config({"home": str(home)}).models_dir)
    for model_id, size_bytes in unknown:
        output.print_line(
            f"The files of {model_id} ({output.format_size(size_bytes)}) are on the disk, but this database "
            "does not know the model: pull it to use them, or remove them."
        )
    return 0


def _print_restored(restored: Restored, file: str) -> None:
    review = restored.review
    if restored.kept is not None:
        output.print_line(f"The previous database is kept as {restored.kept}.")
    if not restored.has_checksum:
        output.print_line("This backup has no checksum, because an older llb wrote it: changes do not show.")
    if restored.kept is not None and not review.has_previous:
        output.print_line(
            "The previous database is damaged or of another llb: what was revoked since the backup is valid "
            "again."
        )
    if review.still_revoked:
        output.print_line(
            f"Still revoked, as since the backup: {', '.join(review.still_revoked)}. "
            f"'llb restore {file} --revive' would bring it back."
        )
    if review.revived:
        output.print_line(f"Valid again: {', '.join(review.revived)}.")
    if review.models:
        output.print_line(f"Removed since the backup, and wanted again: {', '.join(review.models)}.")


def find_unknown_model_files(path: Path, models_dir: Path) -> list[tuple[str, int]]:
    """Model ids, and bytes, of files in `models_dir` of models that the database `path` does not know."""

    async def list_known_ids() -> set[str]:
        async with open_read_only(path) as db:
            return {each.model_id for each in await registrations.list_registrations(db)}

    known = asyncio.run(list_known_ids())
    found = []
    for directory in sorted(models_dir.iterdir()) if models_dir.is_dir() else ():
        if directory.is_dir() and directory.name not in known:
            size_bytes = sum(file.stat().st_size for file in directory.iterdir() if file.is_file())
            found += [(directory.name, size_bytes)] if size_bytes else []
    return found


def _resolve_target(name: str) -> Path:
    """Path of the file to write, behind symbolic links. Raises `CommandError` for a standard stream."""
    path = Path(name).expanduser().absolute()
    for fd in (0, 1, 2):
        try:
            is_stream = path.is_symlink() and os.path.samestat(path.stat(), os.fstat(fd))
        except OSError:
            continue
        if is_stream:
            raise CommandError(f"{path} is an open stream of this command: give the name of a file.")
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        raise CommandError(f"{path} is a symbolic link that leads nowhere: give another file.") from None


def _check_backup_path(database: Path, backup_path: Path, *, force: bool) -> None:
    if backup_path.is_dir():
        raise CommandError(f"{backup_path} is a directory: give a file in it.")
    if platform_compat.is_special_file(backup_path):
        raise CommandError(f"{backup_path} is a device, a pipe or a socket: give the name of a file.")
    if not backup_path.parent.is_dir():
        raise CommandError(f"There is no directory {backup_path.parent}.")
    if backup_path.exists():
        if backup_path.samefile(database):
            raise CommandError(f"{backup_path} is the database itself: give another file.")
        if not force:
            raise CommandError(f"{backup_path} already exists: give another file, or --force.")


# --- model files beside a backup ----------------------------------------------------------------------


async def list_verified_files(db: Database) -> list[tuple[str, FileFingerprint]]:
    """Model id and file of all verified model files of this host."""
    node_id = await settings.get(db, "node_id") or ""
    return [
        (record.model_id, file)
        for record in await replicas.list_by_node(db, node_id)
        if record.state is ReplicaState.READY
        for file in record.files
    ]


def copy_files(files: list[tuple[str, FileFingerprint]], source: Path, target: Path) -> tuple[int, int]:
    """Copy unchanged `files` from `source` to `target`; returns the number of copied files and their bytes.

    Skips files that are already there. Raises `CommandError` for a file that cannot be copied; no partial
    file is left then.
    """
    count = size_bytes = 0
    for model_id, file in files:
        path, copy_path = source / model_id / file.name, target / model_id / file.name
        if platform_compat.is_special_file(copy_path):
            raise CommandError(f"{copy_path} is a device, a pipe or a socket: remove it first.")
        if not _matches_fingerprint(path, file) or _matches_fingerprint(copy_path, file):
            continue
        partial = copy_path.with_name(copy_path.name + PARTIAL_SUFFIX)
        try:
            platform_compat.make_private_dir(copy_path.parent)
            partial.unlink(missing_ok=True)
            if not platform_compat.clone_file(path, partial):
                shutil.copyfile(path, partial)
            # The modification time identifies the file as the verified one.
            os.utime(partial, ns=(file.mtime_ns, file.mtime_ns))
            platform_compat.replace_durably(partial, copy_path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise CommandError(
                f"{path} cannot be copied to {copy_path}: {error.strerror or error}."
            ) from None
        count += 1
        size_bytes += file.size_bytes
    return count, size_bytes


def _matches_fingerprint(path: Path, fingerprint: FileFingerprint) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    return (found.st_size, found.st_mtime_ns) == (fingerprint.size_bytes, fingerprint.mtime_ns)
