"""Replica worker: downloads, checks, serves and removes the files of replicas."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from llb import gguf
from llb.base.tasks import run_to_completion
from llb.engine.planning.engine_plan import EngineFiles
from llb.engine.pool import EnginePool
from llb.hub import HubClient
from llb.node.download.bandwidth import BandwidthLimiter
from llb.node.download.download_errors import UNEXPECTED_FAILURE, DownloadFailed
from llb.node.download.gate import DownloadGate
from llb.node.download.peer_fetch import PeerClient, PeerFetchContext
from llb.node.download.resumable_download import MIN_FREE_BYTES, FileDownload
from llb.node.download.timeouts import DownloadTimeouts
from llb.node.files import ModelFiles
from llb.node.replica import UNVERIFIED_MTIME_NS, Replica, expected_fingerprints
from llb.store.tables.replicas import FileFingerprint
from llb.texts.coded_text import CodedText
from llb.wire import BadSourceReport, DesiredModel, FileSpec, ReplicaState

log = logging.getLogger(__name__)

# Part of the API contract: progress is reported at most 4 times a second.
PROGRESS_POLL_INTERVAL_S = 0.25
DISK_RESERVE_BYTES = 2_000_000_000
DELETE_GRACE_S = 30.0


class ReplicaWorker:
    """Worker on replicas, in one task for each. A cancelled task leaves a state that can be resumed."""

    def __init__(
        self,
        hub: HubClient,
        files: ModelFiles,
        engine_pool: EnginePool,
        peer_client: PeerClient,
        *,
        max_downloads: int,
        download_rate: int | None,
        get_wanted_model_ids: Callable[[], frozenset[str]],
        on_replica_changed: Callable[[Replica], None],
        on_bad_source: Callable[[BadSourceReport], None],
        keeps_existing_files: bool,
        timeouts: DownloadTimeouts | None = None,
    ) -> None:
        """`get_wanted_model_ids` returns the models whose partial downloads must not be removed.

        `on_bad_source` is called with each node that sent wrong bytes. `keeps_existing_files` protects files
        that were on disk before, which belong to this host and not to its balancer, from deletion.
        """
        self._hub = hub
        self._files = files
        self._engine_pool = engine_pool
        self._download_gate = DownloadGate(max_downloads)
        self._download_rate = download_rate
        self._bandwidth_limiter = BandwidthLimiter(download_rate)
        self._peer_client = peer_client
        self._fetching_replicas: set[Replica] = set()
        self._get_wanted_model_ids = get_wanted_model_ids
        self._on_replica_changed = on_replica_changed
        self._on_bad_source = on_bad_source
        self._keeps_existing_files = keeps_existing_files
        self._timeouts = timeouts

    def close(self) -> None:
        """Close the connections to other nodes; idempotent."""
        self._peer_client.close()

    def set_download_rate(self, bytes_per_s: int | None) -> None:
        """Limit all downloads to `bytes_per_s` (None: no limit), in addition to the limit of this host."""
        limits = [limit for limit in (self._download_rate, bytes_per_s) if limit is not None]
        self._bandwidth_limiter.set_limit(min(limits, default=None))

    # --- desired states -----------------------------------------------------------------------------

    async def ensure_replica(self, replica: Replica, desired_model: DesiredModel) -> None:
        """Download and verify every file of `desired_model` that is missing, then serve the model."""
        if (
            replica.state is ReplicaState.READY
            and _has_same_files(replica, desired_model)
            and await self.check_files(replica)
        ):
            replica.attempt = desired_model.attempt
            await self._read_template(replica)
            self._start_serving(replica, desired_model)
            self._on_replica_changed(replica)
            return
        if (
            replica.state is ReplicaState.ERROR
            and replica.attempt >= desired_model.attempt
            and _has_same_files(replica, desired_model)
        ):
            # It has failed, and there is neither a retry nor another file.
            self._on_replica_changed(replica)
            return
        replica.attempt = desired_model.attempt
        replica.discards_partial = False
        if replica.state in (ReplicaState.READY, ReplicaState.ERROR, ReplicaState.DELETING):
            await self._engine_pool.remove_model(replica.model_id, grace_s=0)
            await replica.transition(ReplicaState.WANTED)
        existing = (
            await asyncio.to_thread(self._find_existing_files, replica, desired_model)
            if self._keeps_existing_files
            else ()
        )
        replica.files = expected_fingerprints(desired_model.files, existing)
        self._on_replica_changed(replica)
        async with self._download_gate.place(lambda: replica.rank):
            self._fetching_replicas.add(replica)
            try:
                await self._fetch_files(replica, desired_model)
            except DownloadFailed as failure:
                log.warning("pull of %s failed: %s", replica.model_id, failure)
                await replica.transition(ReplicaState.ERROR, error=failure.message)
            except OSError as failure:
                text = CodedText(
                    "files_not_writable",
                    "The files cannot be written: {cause}",
                    cause=failure.strerror or "unknown error",
                )
                await replica.transition(ReplicaState.ERROR, error=text)
            except Exception:
                # A defect must not look like a download in progress.
                await replica.transition(ReplicaState.ERROR, error=UNEXPECTED_FAILURE)
                raise
            finally:
                self._fetching_replicas.discard(replica)
                replica.downloads.clear()

    def on_sources_changed(self, replica: Replica) -> None:
        """Let the running downloads use the new peer sources of the model."""
        for download in replica.downloads.values():
            download.on_sources_changed()

    async def remove_replica(self, replica: Replica) -> None:
        """Remove a model after its running requests; an incomplete model is kept as partial downloads."""
        if replica.state is not ReplicaState.DELETING:
            await replica.transition(ReplicaState.DELETING)
        await self._engine_pool.remove_model(replica.model_id, grace_s=DELETE_GRACE_S)
        own_files = [file for file in replica.files if not file.found]
        if replica.is_complete and own_files:
            # A thread cannot be stopped, and must not meet the next task on its files.
            await run_to_completion(
                asyncio.to_thread(
                    self._files.remove_files, replica.model_id, [file.name for file in own_files]
                )
            )
        elif not replica.is_complete:
            if replica.discards_partial:
                await run_to_completion(
                    asyncio.to_thread(
                        self._files.remove_files, replica.model_id, [file.name for file in own_files]
                    )
                )
            else:
                for file in own_files:
                    await run_to_completion(
                        asyncio.to_thread(
                            self._files.demote_to_partial, replica.model_id, file.name, file.sha256
                        )
                    )
            # The bytes of a cancelled download are kept for later, but not on a full disk.
            with suppress(OSError):
                await asyncio.to_thread(
                    self._files.free_up_space, MIN_FREE_BYTES, self._get_wanted_model_ids()
                )
        replica.partial_bytes = await asyncio.to_thread(self._files.partial_bytes_of, replica.model_id)
        await replica.transition(ReplicaState.GONE)

    def _find_existing_files(self, replica: Replica, desired_model: DesiredModel) -> list[FileSpec]:
        """The files that were on disk before the model was assigned to this node."""
        known = {(file.name, file.sha256): file.found for file in replica.files}
        return [
            spec
            for spec in desired_model.files
            if known.get((spec.name, spec.sha256), self._files.has_file(replica.model_id, spec))
        ]

    async def stop_serving(self, replica: Replica) -> None:
        """Stop serving a model that is neither wanted nor deleted; its files are kept."""
        await self._engine_pool.remove_model(replica.model_id, grace_s=DELETE_GRACE_S)

    # --- checks -------------------------------------------------------------------------------------

    async def check_files(self, replica: Replica) -> bool:
        """Check that the files have not changed since verification; a ready replica turns to Error if so."""
        problem = await self.find_file_problem(replica)
        if problem is not None:
            await self.mark_unusable(replica, problem)
        return problem is None

    async def find_file_problem(self, replica: Replica) -> str | None:
        """Why the files are not the verified ones, as a clause; None if they are."""
        return await asyncio.to_thread(self._find_file_problem, replica)

    def _find_file_problem(self, replica: Replica) -> str | None:
        for file in replica.files:
            try:
                stamp = self._files.get_file_stamp(replica.model_id, file.name)
            except OSError as error:
                return CodedText(
                    "file_not_readable",
                    "file cannot be read: {file}: {cause}",
                    file=file.name,
                    cause=error.strerror or "unknown error",
                )
            if stamp is None:
                return CodedText(
                    "file_missing", "file missing: {file}; retry to download it again", file=file.name
                )
            if (stamp.size_bytes, stamp.mtime_ns) != (file.size_bytes, file.mtime_ns):
                return CodedText(
                    "file_changed",
                    "file changed since it was verified: {file}; retry to check and download it again",
                    file=file.name,
                )
        return None

    async def mark_unusable(self, replica: Replica, reason: str) -> None:
        """Turn a ready replica to Error because its files cannot be used."""
        if replica.state is ReplicaState.READY:
            await replica.transition(ReplicaState.ERROR, error=reason)
            await self._engine_pool.remove_model(replica.model_id, grace_s=0)

    async def _read_template(self, replica: Replica) -> None:
        """Read from the header of the first file what its chat template can do."""
        path = self._files.file_path(replica.model_id, replica.files[0].name)
        try:
            metadata = await asyncio.to_thread(_read_header, path)
        except (OSError, gguf.GgufError, gguf.NeedMoreData):
            # A file that cannot be read is reported when it is loaded.
            replica.template_capabilities = replica.template = None
            return
        templates = (metadata.chat_template, metadata.tool_template)
        replica.template_capabilities = gguf.template_capabilities(templates)
        replica.template = gguf.template_support(templates)

    def _start_serving(self, replica: Replica, desired_model: DesiredModel) -> None:
        paths = [self._files.file_path(replica.model_id, file.name) for file in replica.files]
        self._engine_pool.add_model(
            replica.model_id,
            EngineFiles(
                model_path=paths[0],
                extra_paths=tuple(paths[1:]),
                capabilities=desired_model.capabilities,
            ),
        )
        self._engine_pool.set_pinned(replica.model_id, replica.pinned)

    # --- download -----------------------------------------------------------------------------------

    async def _fetch_files(self, replica: Replica, desired_model: DesiredModel) -> None:
        if replica.state is not ReplicaState.DOWNLOADING:
            await replica.transition(ReplicaState.DOWNLOADING)
        finished_bytes = 0
        for spec in desired_model.files:
            replica.downloaded_bytes = finished_bytes
            await self._fetch_file(replica, spec, finished_bytes)
            finished_bytes += spec.size_bytes
        replica.downloaded_bytes = finished_bytes
        await replica.transition(ReplicaState.VERIFYING)
        existing = [file.found for file in replica.files]
        try:
            fingerprints = await asyncio.to_thread(self._verify_gguf_files, desired_model, existing)
        except gguf.GgufError as error:
            text = CodedText(
                "file_not_usable", "The file cannot be used because {cause}", cause=error.message
            )
            await replica.transition(ReplicaState.ERROR, error=text)
            return
        await self._read_template(replica)
        await replica.transition(ReplicaState.READY, files=fingerprints)
        self._start_serving(replica, desired_model)

    async def _fetch_file(self, replica: Replica, spec: FileSpec, finished_bytes: int) -> None:
        """Get one file, from the Hugging Face cache if it is there, else from other nodes or the Hub.

        `finished_bytes` is the size of the replica's files before it.
        """
        cancelled = threading.Event()
        await run_to_completion(
            asyncio.to_thread(self._import_from_cache_or_free_space, replica.model_id, spec, cancelled),
            on_cancelled=cancelled.set,
        )
        download = FileDownload(
            spec,
            replica.directory,
            hub=self._hub,
            bandwidth_limiter=self._bandwidth_limiter,
            peer_context=PeerFetchContext(
                replica.model_id,
                self._peer_client,
                lambda: replica.desired_model.copies if replica.desired_model is not None else (),
            ),
            reserve_bytes=DISK_RESERVE_BYTES + self._reserved_bytes(replica),
            timeouts=self._timeouts,
        )
        replica.downloads[spec.sha256] = download
        download.start()
        reported_sources = 0
        finished = asyncio.ensure_future(download.wait())
        try:
            while not finished.done():
                await asyncio.wait([finished], timeout=PROGRESS_POLL_INTERVAL_S)
                for node_id in download.bad_sources[reported_sources:]:
                    reported_sources += 1
                    self._on_bad_source(
                        BadSourceReport(model_id=replica.model_id, sha256=spec.sha256, node_id=node_id)
                    )
                progress = (finished_bytes + download.downloaded_bytes, download.waiting_reason)
                if progress != (replica.downloaded_bytes, replica.waiting_reason) and not finished.done():
                    replica.downloaded_bytes, replica.waiting_reason = progress
                    replica.bytes_per_second = download.bytes_per_second
                    self._on_replica_changed(replica)
            await finished
        finally:
            # The next task on this replica must not meet a thread that still writes its files.
            await download.stop()
            await asyncio.gather(finished, return_exceptions=True)

    def _reserved_bytes(self, replica: Replica) -> int:
        """Disk space in bytes that the other running downloads still need."""
        others = (each for each in self._fetching_replicas if each is not replica)
        return sum(max(0, each.total_bytes - each.downloaded_bytes) for each in others)

    def _import_from_cache_or_free_space(
        self, model_id: str, spec: FileSpec, cancelled: threading.Event
    ) -> None:
        """Import the file from the Hugging Face cache, or free space for it from abandoned downloads."""
        if self._files.has_file(model_id, spec):
            return
        cached = self._hub.find_cached_file(spec.sha256)
        # A file that cannot be imported is downloaded.
        with suppress(OSError):
            if cached is not None and self._files.import_file(model_id, cached, spec, cancelled):
                return
        self._files.free_up_space(
            spec.size_bytes + DISK_RESERVE_BYTES, protected_model_ids=self._get_wanted_model_ids()
        )

    def _verify_gguf_files(
        self, desired_model: DesiredModel, existing: list[bool]
    ) -> tuple[FileFingerprint, ...]:
        """Fingerprints of the downloaded files; raises `GgufError` for files that llama.cpp cannot load."""
        fingerprints = []
        for spec, is_existing in zip(desired_model.files, existing, strict=True):
            with self._files.file_path(desired_model.model_id, spec.name).open("rb") as file:
                metadata = gguf.read_metadata(file, file_size=spec.size_bytes)
                gguf.check_complete(metadata, spec.size_bytes)
            stamp = self._files.get_file_stamp(desired_model.model_id, spec.name)
            fingerprints.append(
                FileFingerprint(
                    name=spec.name,
                    size_bytes=spec.size_bytes,
                    mtime_ns=stamp.mtime_ns if stamp is not None else UNVERIFIED_MTIME_NS,
                    sha256=spec.sha256,
                    found=is_existing,
                )
            )
        return tuple(fingerprints)


def _read_header(path: Path) -> gguf.GgufMetadata:
    with path.open("rb") as file:
        return gguf.read_metadata(file, file_size=path.stat().st_size)


def _has_same_files(replica: Replica, desired_model: DesiredModel) -> bool:
    return [(file.name, file.sha256) for file in replica.files] == [
        (spec.name, spec.sha256) for spec in desired_model.files
    ]
