"""Replica: one model on this node, with its lifecycle and its files."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType

from llb.base.lifecycle import check_transition
from llb.node.download.resumable_download import FileDownload
from llb.node.files import FileStamp
from llb.node.sharing.growing_file import GrowingFile
from llb.store.tables.replicas import FileFingerprint, ReplicaRecord
from llb.wire import (
    Capability,
    DesiredModel,
    EngineReport,
    FileSpec,
    ReplicaReport,
    ReplicaState,
    TemplateSupport,
)

# A replica whose files are already on disk goes from wanted to verifying without a download.
TRANSITIONS: Mapping[ReplicaState, frozenset[ReplicaState]] = MappingProxyType(
    {
        ReplicaState.WANTED: frozenset(
            {ReplicaState.DOWNLOADING, ReplicaState.VERIFYING, ReplicaState.ERROR, ReplicaState.DELETING}
        ),
        ReplicaState.DOWNLOADING: frozenset(
            {ReplicaState.VERIFYING, ReplicaState.ERROR, ReplicaState.DELETING}
        ),
        ReplicaState.VERIFYING: frozenset(
            {ReplicaState.DOWNLOADING, ReplicaState.READY, ReplicaState.ERROR, ReplicaState.DELETING}
        ),
        ReplicaState.READY: frozenset({ReplicaState.ERROR, ReplicaState.WANTED, ReplicaState.DELETING}),
        ReplicaState.ERROR: frozenset({ReplicaState.WANTED, ReplicaState.DELETING}),
        ReplicaState.DELETING: frozenset({ReplicaState.GONE, ReplicaState.WANTED, ReplicaState.ERROR}),
        ReplicaState.GONE: frozenset(),
    }
)

# Modification time of an expected file that has not been verified yet.
UNVERIFIED_MTIME_NS = -1


def expected_fingerprints(
    files: tuple[FileSpec, ...], existing: Collection[FileSpec] = ()
) -> tuple[FileFingerprint, ...]:
    """Fingerprints of files to download, stored so that a later process knows them as its own.

    Files in `existing` were on disk before, and are not removed with the replica.
    """
    return tuple(
        FileFingerprint(
            name=spec.name,
            size_bytes=spec.size_bytes,
            mtime_ns=UNVERIFIED_MTIME_NS,
            sha256=spec.sha256,
            found=spec in existing,
        )
        for spec in files
    )


class Replica:
    """State of one model on this node. The agent owns it; others read its reports."""

    def __init__(
        self,
        record: ReplicaRecord,
        directory: Path,
        persist: Callable[[ReplicaRecord], Awaitable[None]],
        on_changed: Callable[[Replica], None],
    ) -> None:
        self.model_id = record.model_id
        self.directory = directory
        # None until a desired state has arrived, and while the balancer does not want the model.
        self.desired_model: DesiredModel | None = None
        self.attempt = record.attempt
        self.error = record.error
        self.last_used = record.last_used
        self.pinned = record.pinned
        self.files = record.files
        self.downloaded_bytes = self.total_bytes if self.is_complete else 0
        self.bytes_per_second = 0.0
        self.waiting_reason: str | None = None
        # Downloads of the current attempt by sha256, including finished ones.
        self.downloads: dict[str, FileDownload] = {}
        self.engine: EngineReport | None = None
        # Read from the header of the files before they are served.
        self.template_capabilities: tuple[Capability, ...] | None = None
        self.template: TemplateSupport | None = None
        # Whether the balancer wants the model deleted, including the bytes of its download.
        self.is_deleting = False
        self.discards_partial = False
        # Bytes of its download that are kept after its removal.
        self.partial_bytes = 0
        # Position in the order of downloads.
        self.rank = 0
        # Held by the task that works on the files.
        self.files_lock = asyncio.Lock()
        self.current_task: asyncio.Task[None] | None = None
        self._node_id = record.node_id
        self._state = record.state
        self._persist = persist
        self._on_changed = on_changed

    @property
    def state(self) -> ReplicaState:
        return self._state

    @property
    def is_complete(self) -> bool:
        """Whether all files were verified."""
        return bool(self.files) and all(file.mtime_ns != UNVERIFIED_MTIME_NS for file in self.files)

    @property
    def total_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    async def transition(
        self,
        new_state: ReplicaState,
        *,
        error: str | None = None,
        files: tuple[FileFingerprint, ...] | None = None,
    ) -> None:
        """Change the state: check the transition, store it, then report it.

        `files` replaces the fingerprints, if given. Raises `IllegalTransition`.
        """
        check_transition(TRANSITIONS, self._state, new_state, subject=f"replica {self.model_id}")
        if files is not None:
            self.files = files
        self.error = error
        self.waiting_reason = None
        if new_state is not ReplicaState.DOWNLOADING:
            self.bytes_per_second = 0.0
        self._state = new_state
        await self._persist(self.to_record())
        self._on_changed(self)

    def find_growing_file(self, sha256: str) -> GrowingFile | None:
        """The file with this content for other nodes to read, complete or growing; None if there is none."""
        if sha256 in self.downloads:
            return self.downloads[sha256].growing_file
        if self._state is ReplicaState.READY:
            for file in self.files:
                if file.sha256 == sha256:
                    stamp = FileStamp(file.size_bytes, file.mtime_ns)
                    return GrowingFile(self.directory / file.name, file.size_bytes, stamp)
        return None

    def to_record(self) -> ReplicaRecord:
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

    def to_report(self) -> ReplicaReport:
        total_bytes = self.total_bytes
        return ReplicaReport(
            model_id=self.model_id,
            attempt=self.attempt,
            state=self._state,
            downloaded_bytes=total_bytes
            if self._state is ReplicaState.READY
            else min(self.downloaded_bytes, total_bytes),
            total_bytes=total_bytes,
            bytes_per_second=self.bytes_per_second,
            error=self.error or self.waiting_reason,
            path=str(self.directory / self.files[0].name) if self.is_complete else None,
            engine=self.engine,
            partial_bytes=self.partial_bytes if self._state is ReplicaState.GONE else 0,
            last_used=self.last_used,
            template_capabilities=self.template_capabilities,
            template=self.template,
        )
