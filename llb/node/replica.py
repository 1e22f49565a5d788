"""One model on this node: its lifecycle, what is known of its files, and what it says of itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType

from llb.node.downloads import Download
from llb.node.files import Fingerprint
from llb.node.shared import SharedFile
from llb.store.replicas import FileFingerprint, ReplicaRecord
from llb.wire import EngineReport, FileSpec, ReplicaReport, ReplicaState, WantModel

S = ReplicaState

# DESIGN §4. A replica whose files already lie on the disk goes from wanted to verifying without a download.
MOVES: Mapping[ReplicaState, frozenset[ReplicaState]] = MappingProxyType(
    {
        S.WANTED: frozenset({S.DOWNLOADING, S.VERIFYING, S.ERROR, S.DELETING}),
        S.DOWNLOADING: frozenset({S.VERIFYING, S.ERROR, S.DELETING}),
        S.VERIFYING: frozenset({S.DOWNLOADING, S.READY, S.ERROR, S.DELETING}),
        S.READY: frozenset({S.ERROR, S.WANTED, S.DELETING}),
        S.ERROR: frozenset({S.WANTED, S.DELETING}),
        S.DELETING: frozenset({S.GONE, S.WANTED, S.ERROR}),
        S.GONE: frozenset(),
    }
)

# The time of change of a file that is expected but was not seen whole yet.
UNVERIFIED = -1


def expected(files: tuple[FileSpec, ...], found: Collection[FileSpec] = ()) -> tuple[FileFingerprint, ...]:
    """What is to be fetched, remembered so that a later process knows whose files these are; `found` lie there already."""
    return tuple(
        FileFingerprint(
            name=spec.name,
            size_bytes=spec.size_bytes,
            mtime_ns=UNVERIFIED,
            sha256=spec.sha256,
            found=spec in found,
        )
        for spec in files
    )


class IllegalMove(Exception):
    """A lifecycle was asked for a step that its transition table does not have."""


class Replica:
    """The state of one model on this node. Its owner is the agent; others read its reports."""

    def __init__(
        self,
        record: ReplicaRecord,
        directory: Path,
        persist: Callable[[ReplicaRecord], Awaitable[None]],
        announce: Callable[[Replica], None],
    ) -> None:
        self.model_id = record.model_id
        self.directory = directory
        self.want: WantModel | None = None  # what the balancer asks for; None until it has spoken
        self.attempt = record.attempt
        self.error = record.error
        self.last_used = record.last_used
        self.pinned = record.pinned
        self.files = record.files
        self.downloaded_bytes = self.total_bytes if self.complete else 0
        self.bytes_per_second = 0.0
        self.waiting: str | None = None
        self.downloads: dict[str, Download] = {}  # of this fetch, by sha256; the ended ones too
        self.engine: EngineReport | None = None
        self.leaving = False  # the balancer wants it deleted
        self.lock = asyncio.Lock()  # held by whatever works on the files
        self.task: asyncio.Task[None] | None = None
        self._node_id = record.node_id
        self._state = record.state
        self._persist = persist
        self._announce = announce

    @property
    def state(self) -> ReplicaState:
        return self._state

    @property
    def complete(self) -> bool:
        """All files are there and were verified."""
        return bool(self.files) and all(file.mtime_ns != UNVERIFIED for file in self.files)

    @property
    def total_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    async def move(
        self,
        state: ReplicaState,
        *,
        error: str | None = None,
        files: tuple[FileFingerprint, ...] | None = None,
    ) -> None:
        """Go to `state`: checked, stored, then told. `files` replaces what is known of its files, if given."""
        if state not in MOVES[self._state]:
            raise IllegalMove(f"replica {self.model_id}: {self._state} → {state}")
        if files is not None:
            self.files = files
        self.error = error
        self.waiting = None
        if state is not S.DOWNLOADING:
            self.bytes_per_second = 0.0
        self._state = state
        await self._persist(self.record())
        self._announce(self)

    def shared(self, sha256: str) -> SharedFile | None:
        """The file of this content for others to read, whole or as far as it is; None if it is not to be had here."""
        if sha256 in self.downloads:
            return self.downloads[sha256].shared
        if self._state is S.READY:
            for file in self.files:
                if file.sha256 == sha256:
                    mark = Fingerprint(file.size_bytes, file.mtime_ns)
                    return SharedFile(self.directory / file.name, file.size_bytes, mark)
        return None

    def record(self) -> ReplicaRecord:
        return ReplicaRecord(
            node_id=self._node_id,
            model_id=self.model_id,
            attempt=self.attempt,
            state=self._state,
            error=self.error,
            files=self.files,
            last_used=self.last_used,
            pinned=self.pinned,
        )

    def report(self) -> ReplicaReport:
        total = self.total_bytes
        return ReplicaReport(
            model_id=self.model_id,
            attempt=self.attempt,
            state=self._state,
            downloaded_bytes=total if self._state is S.READY else min(self.downloaded_bytes, total),
            total_bytes=total,
            bytes_per_second=self.bytes_per_second,
            error=self.error or self.waiting,
            path=str(self.directory / self.files[0].name) if self.complete else None,
            engine=self.engine,
            last_used=self.last_used,
        )
