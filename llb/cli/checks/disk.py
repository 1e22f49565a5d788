"""The disk: the home, the models directory, the database, the model files that it says are there."""

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
        parent = next(each for each in path.parents if each.exists())
        if os.access(parent, os.W_OK | os.X_OK):
            yield ok("home", f"{path} is made at the first start")
        else:
            yield bad(
                "home", f"{path} cannot be made: {parent} is not writable", "choose another with --home"
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
            "run llb as the user it belongs to, always the same one",
        )
    elif os.name == "posix" and status.st_mode & 0o077:
        yield warn("home", f"{path} can be looked into by other users of this host", f"chmod 700 {path}")
    free = platform_compat.free_disk_bytes(path)
    if free < MIN_FREE_HOME_BYTES:
        yield bad(
            "home",
            f"only {output.format_size(free)} of disk are free at {path}",
            "make room: llb cannot keep its records",
        )
    else:
        yield ok("home", f"{path}, {output.format_size(free)} free")


def check_models_dir(config: Config) -> Iterator[Finding]:
    path = config.models_dir
    here = next(each for each in (path, *path.parents) if each.exists())
    if not here.is_dir() or not os.access(here, os.W_OK | os.X_OK):
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
            f", {len(partials)} unfinished ({output.format_size(sum(each.size_bytes for each in partials))})"
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
        yield ok("database", "is made at the first start")
        return
    fault = backup.find_database_defect(path)
    if fault is not None:
        yield bad("database", f"{path}: {fault}", "put a backup in its place: llb restore FILE")
        return
    yield ok("database", f"intact, {output.format_size(path.stat().st_size)}")
    if config.join is not None:
        return  # no accounts while it lends itself
    try:
        default = asyncio.run(_is_default_password_in_use(path))
    except sqlite3.Error as error:
        yield bad(
            "accounts", f"cannot be read: {error}", "put a backup in the database's place: llb restore FILE"
        )
        return
    if default:
        yield warn(
            "accounts",
            f"the password is still '{DEFAULT_PASSWORD}': it works from this host only, and nobody else can be let in",
            "llb password",
        )
    else:
        yield ok("accounts", "the default password is not in use")


def check_model_files(config: Config) -> Iterator[Finding]:
    """Whether the files of all ready models are as they were when they were verified."""
    if not config.database_path.exists():
        return
    try:
        held, failed = asyncio.run(_read_replicas(config))
    except (sqlite3.Error, msgspec.MsgspecError):
        return  # told by the check of the database
    where = "" if config.join is None else f" at {config.join}"
    files = ModelFiles(config.models_dir)
    ready = [replica for replica in held if replica.state is ReplicaState.READY]
    whole = 0
    for replica in ready:
        fault = _find_file_defect(files, replica)
        if fault is None:
            whole += 1
        else:
            remedy = f"llb pull {replica.model_id}{where} fetches it anew"
            yield bad("model files", f"{replica.model_id}: {fault}", remedy)
    for model_id, error in failed.items():
        yield warn("model files", f"{model_id}: {error}", f"llb pull {model_id}{where} tries again")
    if ready:
        yield ok("model files", f"{whole} of {len(ready)} models whole and unchanged")
    else:
        yield ok("model files", f"no model is here yet: llb pull ID{where}")


def _find_file_defect(files: ModelFiles, replica: ReplicaRecord) -> str | None:
    for expected in replica.files:
        try:
            found = files.get_file_stamp(replica.model_id, expected.name)
        except (OSError, UnsafeFileName) as error:
            return f"{expected.name} cannot be looked at: {error}"
        if found is None:
            return f"{expected.name} is missing"
        if found.size_bytes != expected.size_bytes:
            return f"{expected.name} has {output.format_size(found.size_bytes)} instead of {output.format_size(expected.size_bytes)}"
        if found.mtime_ns != expected.mtime_ns:
            return f"{expected.name} was changed after it was verified"
    return None


async def _is_default_password_in_use(path: Path) -> bool:
    async with backup.open_read_only(path) as reading:
        return await users.is_default_password_in_use(reading)


async def _read_replicas(config: Config) -> tuple[list[ReplicaRecord], dict[str, str]]:
    """The replicas of this node, and why each model that could not be fetched could not."""
    member = membership_of(config)
    async with backup.open_read_only(config.database_path) as reading:
        node_id = await settings.get(reading, "node_id") if member is None else member.node_id
        held = [] if node_id is None else await replicas.list_by_node(reading, node_id)
        wished = await registrations.list_registrations(reading) if member is None else []
        failed = {each.model_id: each.error for each in wished if each.error is not None}
        for each in held:
            if each.state is ReplicaState.ERROR:
                failed[each.model_id] = each.error or "it could not be fetched"
        return held, failed


def _permission_remedy(path: Path) -> str:
    return f"make it writable for the user llb runs as, or choose another ({path} is set by --home or --models-dir)"
