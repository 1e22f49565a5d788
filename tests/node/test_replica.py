"""Replica: its moves, what it stores and reports, what other nodes may read of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from llb.base.lifecycle import IllegalTransition
from llb.node.replica import TRANSITIONS, UNVERIFIED_MTIME_NS, Replica, expected_fingerprints
from llb.store.tables.replicas import FileFingerprint, ReplicaRecord
from llb.wire import FileSpec, ReplicaReport, ReplicaState

FILE = FileFingerprint(name="m.gguf", size_bytes=100, mtime_ns=5, sha256="ab" * 32)
SECOND = structs.replace(FILE, name="m-2.gguf", sha256="cd" * 32)


class Host:
    """Replica whose records and reports are noted."""

    def __init__(self, directory: Path, **more: Any) -> None:
        self.stored: list[ReplicaRecord] = []
        self.reported: list[ReplicaReport] = []
        fields: dict[str, Any] = {"state": ReplicaState.WANTED} | more
        record = ReplicaRecord(node_id="n1", model_id="tiny", attempt=1, **fields)
        self.replica = Replica(record, directory, self.persist, self.report)

    async def persist(self, record: ReplicaRecord) -> None:
        # Not before it is stored.
        assert len(self.reported) == len(self.stored)
        self.stored.append(record)

    def report(self, replica: Replica) -> None:
        self.reported.append(replica.to_report())


async def test_a_move_is_stored_and_then_reported(tmp_path: Path) -> None:
    host = Host(tmp_path)
    await host.replica.transition(ReplicaState.VERIFYING, files=(FILE,))
    await host.replica.transition(ReplicaState.ERROR, error="the disk is full")
    assert [(record.state, record.error) for record in host.stored] == [
        (ReplicaState.VERIFYING, None),
        (ReplicaState.ERROR, "the disk is full"),
    ]
    assert [report.state for report in host.reported] == [record.state for record in host.stored]
    # A new attempt begins without the error, with the files.
    await host.replica.transition(ReplicaState.WANTED)
    assert (host.stored[-1].error, host.stored[-1].files) == (None, (FILE,))


async def test_an_illegal_move_is_neither_stored_nor_reported(tmp_path: Path) -> None:
    host = Host(tmp_path)
    with pytest.raises(IllegalTransition):
        await host.replica.transition(ReplicaState.READY)
    assert (host.replica.state, host.stored, host.reported) == (ReplicaState.WANTED, [], [])


def test_every_state_has_its_moves_and_the_last_has_none() -> None:
    assert set(TRANSITIONS) == set(ReplicaState)
    assert {state for state, moves in TRANSITIONS.items() if not moves} == {ReplicaState.GONE}
    # Whatever happens, a model can be deleted.
    assert all(
        ReplicaState.DELETING in TRANSITIONS[state]
        for state in set(ReplicaState) - {ReplicaState.DELETING, ReplicaState.GONE}
    )


async def test_what_a_download_waits_for_is_shown_until_it_moves(tmp_path: Path) -> None:
    host = Host(tmp_path, state=ReplicaState.DOWNLOADING, files=(FILE,))
    replica = host.replica
    replica.waiting_reason, replica.bytes_per_second, replica.downloaded_bytes = "the Hub is away", 9.0, 150
    report = replica.to_report()
    assert (report.error, report.bytes_per_second) == ("the Hub is away", 9.0)
    # No more than there is.
    assert (report.downloaded_bytes, report.total_bytes) == (100, 100)
    await replica.transition(ReplicaState.VERIFYING)
    report = replica.to_report()
    assert (report.error, report.bytes_per_second) == (None, 0.0)


def test_a_replica_is_complete_once_every_file_was_verified(tmp_path: Path) -> None:
    unverified = structs.replace(SECOND, mtime_ns=UNVERIFIED_MTIME_NS)
    for files, is_complete in (((), False), ((FILE, unverified), False), ((FILE, SECOND), True)):
        replica = Host(tmp_path, state=ReplicaState.READY, files=files).replica
        assert replica.is_complete is is_complete
        assert (replica.to_report().path is not None) is is_complete
    assert replica.to_report().path == str(tmp_path / "m.gguf")
    assert replica.downloaded_bytes == 200


def test_others_read_what_is_ready_or_grows(tmp_path: Path) -> None:
    ready = Host(tmp_path, state=ReplicaState.READY, files=(FILE, SECOND)).replica
    shared = ready.find_growing_file(SECOND.sha256)
    assert shared is not None
    assert shared.size_bytes == 100
    assert ready.find_growing_file("ef" * 32) is None
    fetching = Host(tmp_path, state=ReplicaState.DOWNLOADING, files=(FILE,)).replica
    assert fetching.find_growing_file(FILE.sha256) is None
    download: Any = type("Download", (), {"growing_file": shared})
    fetching.downloads[FILE.sha256] = download
    assert fetching.find_growing_file(FILE.sha256) is shared


def test_kept_bytes_are_told_when_it_is_gone_only(tmp_path: Path) -> None:
    for state, partial_bytes in ((ReplicaState.GONE, 7), (ReplicaState.ERROR, 0)):
        replica = Host(tmp_path, state=state).replica
        replica.partial_bytes = 7
        assert replica.to_report().partial_bytes == partial_bytes


def test_files_that_were_there_before_are_remembered_as_such() -> None:
    specs = tuple(FileSpec(name=f"{n}.gguf", size_bytes=n, sha256=f"{n}" * 64, sources=()) for n in (1, 2))
    first, second = expected_fingerprints(specs, specs[1:])
    assert (first.found, second.found) == (False, True)
    assert first.mtime_ns == second.mtime_ns == UNVERIFIED_MTIME_NS
