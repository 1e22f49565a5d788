"""Model files beside a backup: copied there, and from there into another home, with what tells that they were verified."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from llb.base import platform_compat
from llb.cli.errors import CommandError
from llb.store.database import Database
from llb.store.tables import replicas, settings
from llb.wire import ReplicaState

PARTIAL_SUFFIX = ".saving"


async def list_verified_files(db: Database) -> list[tuple[str, replicas.FileFingerprint]]:
    """Model id and file of everything that this host has verified."""
    node_id = await settings.get(db, "node_id") or ""
    return [
        (record.model_id, file)
        for record in await replicas.list_by_node(db, node_id)
        if record.state is ReplicaState.READY
        for file in record.files
    ]


def copy_files(
    files: list[tuple[str, replicas.FileFingerprint]], source: Path, target: Path
) -> tuple[int, int]:
    """Have each of `files` that lies under `source` as it was verified under `target` too; returns how many were copied, and their
    bytes. A file that is there already stays. Raises `Failure` that names what cannot be copied; nothing is half a file."""
    count = size_bytes = 0
    for model_id, file in files:
        path, there = source / model_id / file.name, target / model_id / file.name
        if not _matches_fingerprint(path, file) or _matches_fingerprint(there, file):
            continue
        partial = there.with_name(there.name + PARTIAL_SUFFIX)
        try:
            platform_compat.make_private_dir(there.parent)
            partial.unlink(missing_ok=True)
            if not platform_compat.clone_file(path, partial):
                shutil.copyfile(path, partial)
            # By its time of change the file is known as the one that was verified.
            os.utime(partial, ns=(file.mtime_ns, file.mtime_ns))
            platform_compat.replace_durably(partial, there)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise CommandError(f"{path} cannot be copied to {there}: {error.strerror or error}.") from None
        count += 1
        size_bytes += file.size_bytes
    return count, size_bytes


def _matches_fingerprint(path: Path, fingerprint: replicas.FileFingerprint) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    return (found.st_size, found.st_mtime_ns) == (fingerprint.size_bytes, fingerprint.mtime_ns)
