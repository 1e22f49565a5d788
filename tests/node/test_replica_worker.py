"""Replica worker: disk space for a download, without a network."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from llb.base import platform_compat
from llb.engine.pool import EnginePool
from llb.hub import HubClient
from llb.node.download.peer_fetch import PeerClient
from llb.node.files import ModelFiles
from llb.node.replica_worker import DISK_RESERVE_BYTES, ReplicaWorker
from llb.wire import FileSpec


@pytest.fixture
def files(tmp_path: Path) -> ModelFiles:
    return ModelFiles(tmp_path / "models")


def create_worker(files: ModelFiles, *wanted_model_ids: str) -> ReplicaWorker:
    return ReplicaWorker(
        HubClient("http://127.0.0.1:9"),
        files,
        EnginePool(slots=1, context=None, keep_alive_s=0.0),
        PeerClient(),
        max_downloads=1,
        download_rate=None,
        get_wanted_model_ids=lambda: frozenset(wanted_model_ids),
        on_replica_changed=lambda _replica: None,
        on_bad_source=lambda _report: None,
        keeps_existing_files=False,
    )


def create_spec(name: str, size_bytes: int = 100) -> FileSpec:
    return FileSpec(name=name, size_bytes=size_bytes, sha256=name[0] * 64, sources=())


async def test_abandoned_partial_downloads_make_room_and_wanted_ones_stay(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = {
        model_id: files.partial_path(model_id, create_spec(f"{model_id}.gguf"))
        for model_id in ("abandoned", "big")
    }
    for path in paths.values():
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(10))
    spec = create_spec("big.gguf")
    needed_bytes = spec.size_bytes + DISK_RESERVE_BYTES
    monkeypatch.setattr(platform_compat, "free_disk_bytes", lambda _path: needed_bytes - 1)
    worker = create_worker(files, "big")
    worker._import_from_cache_or_free_space("big", spec, threading.Event())
    assert [path.exists() for path in paths.values()] == [False, True]


async def test_with_enough_disk_no_partial_download_is_removed(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = files.partial_path("abandoned", create_spec("abandoned.gguf"))
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(10))
    spec = create_spec("big.gguf")
    monkeypatch.setattr(
        platform_compat, "free_disk_bytes", lambda _path: spec.size_bytes + DISK_RESERVE_BYTES
    )
    create_worker(files)._import_from_cache_or_free_space("big", spec, threading.Event())
    assert path.exists()
