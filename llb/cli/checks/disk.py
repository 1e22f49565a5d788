"""Checks of the disk: data directory, models directory, database and model files."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec

from llb.base import platform_compat
from llb.cli import output
from llb.cli.checks import Finding, bad, ok, warn
from llb.cli.checks.cluster import membership_of
from llb.config import DEFAULT_PASSWORD, Config
from llb.node.files import ModelFiles, UnsafeFileName
from llb.store import backup
from llb.store.tables import registrations, replicas, settings, users
from llb.store.tables.replicas import ReplicaRecord
from llb.wire import ReplicaState

MIN_FREE_HOME_BYTES = 100_000_000
MIN_FREE_MODELS_BYTES = 5_000_000_000


def check_home(config: Config) -> Iterator[Finding]:
    path = config.home
    if not path.exists():
        parent = next(parent for parent in path.parents if parent.exists())
        if os.access(parent, os.W_OK | os.X_OK):
            yield ok("home", f"{path} is created at the first start")
        else:
            yield bad(
                "home",
                f"{path} cannot be created: {parent} is not writable",
                "choose another directory with --home",
            )
        return
    if not path.is_dir() or not os.access(path, os.W_OK | os.X_OK):
        yield bad("home", f"{path} is not a directory this user can write to", _permission_remedy(path))
        return
    status = path.stat()
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        yield warn(
            "home",
            f"{path} belongs to another user",
            "always run llb as the user that owns it",
        )
    elif os.name == "posix" and status.st_mode & 0o077:
        yield warn("home", f"{path} can be read by other users of this host", f"chmod 700 {path}")
    free = platform_compat.free_disk_bytes(path)
    if free < MIN_FREE_HOME_BYTES:
        yield bad(
            "home",
            f"only {output.format_size(free)} of disk space free at {path}",
            "free some disk space: llb needs it for its database",
        )
    else:
        yield ok("home", f"{path}, {output.format_size(free)} free")


def check_models_dir(config: Config) -> Iterator[Finding]:
    path = config.models_dir
    existing = next(candidate for candidate in (path, *path.parents) if candidate.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        yield bad("models dir", f"{path} cannot be written to", _permission_remedy(path))
        return
    free = platform_compat.free_disk_bytes(path)
    files = ModelFiles(path)
    try:
        used, partials = files.disk_used_bytes(), files.list_partials()
    except OSError as error:
        yield bad("models dir", f"{path} cannot be read: {error.strerror}", _permission_remedy(path))
        return
    detail = f"{path}, {output.format_size(used)} used, {output.format_size(free)} free"
    if partials:
        detail += (
            f", {len(partials)} unfinished ({output.format_size(sum(file.size_bytes for file in partials))})"
        )
    if free < MIN_FREE_MODELS_BYTES:
        yield warn(
            "models dir", detail, "remove models ('llb rm'), or choose a larger disk with --models-dir"
        )
    else:
        yield ok("models dir", detail)


def check_database(config: Config) -> Iterator[Finding]:
    path = config.database_path
    if not path.exists():
        yield ok("database", "is created at the first start")
        return
    defect = backup.find_database_defect(path)
    if defect is not None:
        yield bad("database", f"{path}: {defect}", "restore a backup: llb restore FILE")
        return
    yield ok("database", f"intact, {output.format_size(path.stat().st_size)}")
    if config.join is not None:
        # A joined host has no accounts.
        return
    try:
        default = asyncio.run(_is_default_password_in_use(path))
    except sqlite3.Error as error:
        yield bad("accounts", f"cannot be read: {error}", "restore a backup: llb restore FILE")
        return
    if default:
        yield warn(
            "accounts",
            f"the password is still '{DEFAULT_PASSWORD}': it works from this host only",
            "llb password",
        )
    else:
        yield ok("accounts", "the default password is not in use")


def check_model_files(config: Config) -> Iterator[Finding]:
    """Check that the files of all ready models are unchanged since their verification."""
    if not config.database_path.exists():
        return
    try:
        records, failed = asyncio.run(_read_replicas(config))
    except (sqlite3.Error, msgspec.MsgspecError):
        # `check_database` reports it.
        return
    where = "" if config.join is None else f" at {config.join}"
    files = ModelFiles(config.models_dir)
    ready = [replica for replica in records if replica.state is ReplicaState.READY]
    intact = 0
    for replica in ready:
        defect = _find_file_defect(files, replica)
        if defect is None:
            intact += 1
        else:
            remedy = f"llb pull {replica.model_id}{where} downloads it again"
            yield bad("model files", f"{replica.model_id}: {defect}", remedy)
    for model_id, error in failed.items():
        yield warn("model files", f"{model_id}: {error}", f"llb pull {model_id}{where} tries again")
    if ready:
        yield ok("model files", f"{intact} of {len(ready)} models intact")
    else:
        yield ok("model files", f"no models yet: llb pull ID{where}")


def _find_file_defect(files: ModelFiles, replica: ReplicaRecord) -> str | None:
    for expected in replica.files:
        try:
            found = files.get_file_stamp(replica.model_id, expected.name)
        except (OSError, UnsafeFileName) as error:
            return f"{expected.name} cannot be read: {error}"
        if found is None:
            return f"{expected.name} is missing"
        if found.size_bytes != expected.size_bytes:
            size, expected_size = (
                output.format_size(size_bytes) for size_bytes in (found.size_bytes, expected.size_bytes)
            )
            return f"{expected.name} has {size} instead of {expected_size}"
        if found.mtime_ns != expected.mtime_ns:
            return f"{expected.name} was changed after it was verified"
    return None


async def _is_default_password_in_use(path: Path) -> bool:
    async with backup.open_read_only(path) as db:
        return await users.is_default_password_in_use(db)


async def _read_replicas(config: Config) -> tuple[list[ReplicaRecord], dict[str, str]]:
    """Replicas of this node, and the errors of failed models by model id."""
    member = membership_of(config)
    async with backup.open_read_only(config.database_path) as db:
        node_id = await settings.get(db, "node_id") if member is None else member.node_id
        records = [] if node_id is None else await replicas.list_by_node(db, node_id)
        registered = await registrations.list_registrations(db) if member is None else []
        failed = {item.model_id: item.error for item in registered if item.error is not None}
        for record in records:
            if record.state is ReplicaState.ERROR:
                failed[record.model_id] = record.error or "the download failed"
        return records, failed


def _permission_remedy(path: Path) -> str:
    return (
        "make it writable for the user that llb runs as, or choose another directory "
        f"({path} is set by --home or --models-dir)"
    )
