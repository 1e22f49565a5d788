"""Checks of the disk: each problem with its remedy, and nothing is changed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llb.base import platform_compat
from llb.cli.checks import Finding, Level, disk
from llb.config import make_config
from llb.node.files import ModelFiles, partial_file_name
from llb.store.database import Database
from llb.store.tables import registrations, replicas, settings, users
from llb.store.tables.registrations import Registration
from llb.store.tables.replicas import FileFingerprint, ReplicaRecord
from llb.wire import FileSpec, ReplicaState
from tests.store.tables.people import make_user
from tests.store.tables.test_registrations import ENTRY


@pytest.fixture(autouse=True)
def free_bytes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    free = [10**12]
    monkeypatch.setattr(platform_compat, "free_disk_bytes", lambda _path: free[0])
    return free


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir(mode=0o700)
    return path


def only(findings: Iterator[Finding]) -> Finding:
    [finding] = findings
    return finding


def test_a_home_that_is_not_there_yet(tmp_path: Path) -> None:
    found = only(disk.check_home(make_config(home=tmp_path / "deep" / "home")))
    assert (found.level, found.detail) == (
        Level.OK,
        f"{tmp_path / 'deep' / 'home'} is created at the first start",
    )
    assert not (tmp_path / "deep").exists()


def test_a_home_that_others_can_read_and_one_that_is_full(home: Path, free_bytes: list[int]) -> None:
    config = make_config(home=home)
    assert only(disk.check_home(config)).level is Level.OK
    home.chmod(0o750)
    first, second = disk.check_home(config)
    assert (first.level, first.remedy, second.level) == (Level.WARN, f"chmod 700 {home}", Level.OK)
    home.chmod(0o700)
    free_bytes[0] = disk.MIN_FREE_HOME_BYTES - 1
    full = only(disk.check_home(config))
    assert (full.level, "only 100 MB of disk space free" in full.detail) == (Level.BAD, True)


def test_a_file_in_the_place_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = make_config(home=tmp_path / "file", models_dir=tmp_path / "file")
    for check in (disk.check_home, disk.check_models_dir):
        assert only(check(config)).level is Level.BAD


def test_models_and_unfinished_downloads_are_counted(home: Path, free_bytes: list[int]) -> None:
    config = make_config(home=home)
    directory = config.models_dir / "tiny"
    directory.mkdir(parents=True)
    (directory / "tiny.gguf").write_bytes(bytes(4096))
    found = only(disk.check_models_dir(config))
    assert found.level is Level.OK
    assert " unfinished (" not in found.detail
    spec = FileSpec(name="other.gguf", size_bytes=9000, sha256="ab" * 32, sources=())
    (directory / partial_file_name(spec)).write_bytes(bytes(2000))
    assert only(disk.check_models_dir(config)).detail.endswith(", 1 unfinished (2 kB)")
    free_bytes[0] = disk.MIN_FREE_MODELS_BYTES - 1
    assert only(disk.check_models_dir(config)).level is Level.WARN


async def fill(home: Path, *, default_password: bool = False, **replica: Any) -> None:
    """Make the database of a host with one user and one replica of `tiny`."""
    db = await Database.open(home / "llb.db")
    async with db.write() as tx:
        await users.add(tx, make_user("ann", default_password=default_password))
        await settings.put(tx, "node_id", "n1")
        await registrations.put(
            tx, Registration(model_id="other", entry=ENTRY, error="gated", created_at=1.0, created_by="ann")
        )
        if replica:
            await replicas.put(tx, ReplicaRecord(node_id="n1", model_id="tiny", attempt=1, **replica))
    await db.close()


@pytest.mark.parametrize(("is_default", "level"), [(False, Level.OK), (True, Level.WARN)])
def test_the_database_and_its_default_password(home: Path, is_default: bool, level: Level) -> None:
    config = make_config(home=home)
    assert only(disk.check_database(config)).detail == "is created at the first start"
    asyncio.run(fill(home, default_password=is_default))
    database, accounts = disk.check_database(config)
    assert (database.level, accounts.level) == (Level.OK, level)
    # A joined host has no accounts.
    assert only(disk.check_database(make_config(home=home, join="http://attic"))).check == "database"
    config.database_path.write_text("nothing of the kind")
    assert only(disk.check_database(config)).remedy == "restore a backup: llb restore FILE"


def test_model_files_are_compared_with_what_was_verified(home: Path) -> None:
    config = make_config(home=home)
    path = config.models_dir / "tiny" / "tiny.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF")
    stamp = ModelFiles(config.models_dir).get_file_stamp("tiny", "tiny.gguf")
    assert stamp is not None
    file = FileFingerprint(
        name="tiny.gguf", size_bytes=stamp.size_bytes, mtime_ns=stamp.mtime_ns, sha256="ab" * 32
    )
    asyncio.run(fill(home, state=ReplicaState.READY, files=(file,)))

    def details() -> list[str]:
        found = [*disk.check_model_files(config)]
        # A model whose pull failed is told whatever the files are.
        assert ("other: gated", "llb pull other tries again") in [
            (each.detail, each.remedy) for each in found
        ]
        return [each.detail for each in found if not each.detail.startswith("other")]

    assert details() == ["1 of 1 models intact"]
    os.utime(path, (1, 1))
    assert details() == ["tiny: tiny.gguf was changed after it was verified", "0 of 1 models intact"]
    path.write_bytes(b"GG")
    assert details()[0] == "tiny: tiny.gguf has 2 B instead of 4 B"
    path.unlink()
    assert details()[0] == "tiny: tiny.gguf is missing"


def test_a_host_without_a_database_has_no_model_files(home: Path) -> None:
    assert [*disk.check_model_files(make_config(home=home))] == []
