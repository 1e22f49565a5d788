"""What is done with one replica: fetch its files, look after them, serve them, remove them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from llb import gguf
from llb.engine.pool import EngineFiles, EnginePool
from llb.hub import HubClient
from llb.node.download.bandwidth import BandwidthLimiter
from llb.node.download.file_download import DownloadFailed, FileDownload
from llb.node.download.peer_fetch import PeerClient, PeerFetchContext
from llb.node.download.timeouts import DownloadTimeouts
from llb.node.files import ModelFiles
from llb.node.replica import UNVERIFIED_MTIME_NS, Replica, expected_fingerprints
from llb.store.tables.replicas import FileFingerprint
from llb.wire import BadSourceReport, DesiredModel, FileSpec, ReplicaState

PROGRESS_POLL_INTERVAL_S = (
    0.25  # how often a running download is looked at: progress is told at most 4 times a second
)
DISK_RESERVE_BYTES = 2_000_000_000
DELETE_GRACE_S = 30.0


class ReplicaWorker:
    """Works on replicas, one task a replica at a time. Cancelling any of it leaves a state that can be taken up."""

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
        """`wanted` are the ids of the models whose partials are somebody's work; `blame` hears who sent wrong bytes.

        `lent`: what lay here before is this host's own, and no balancer's to delete.
        """
        self._hub = hub
        self._files = files
        self._engine_pool = engine_pool
        self._download_semaphore = asyncio.Semaphore(max_downloads)
        self._bandwidth_limiter = BandwidthLimiter(download_rate)
        self._peer_client = peer_client
        self._fetching_replicas: set[Replica] = set()
        self._get_wanted_model_ids = get_wanted_model_ids
        self._on_replica_changed = on_replica_changed
        self._on_bad_source = on_bad_source
        self._keeps_existing_files = keeps_existing_files
        self._timeouts = timeouts

    def close(self) -> None:
        """Ask no other node any more; idempotent."""
        self._peer_client.close()

    # --- the three things a balancer can want -------------------------------------------------------

    async def ensure_replica(self, replica: Replica, desired_model: DesiredModel) -> None:
        """Have every file of `want` here, verified, and serve it."""
        if (
            replica.state is ReplicaState.READY
            and _has_same_files(replica, desired_model)
            and await self.check_files(replica)
        ):
            replica.attempt = desired_model.attempt
            self._start_serving(replica, desired_model)
            self._on_replica_changed(replica)
            return
        if (
            replica.state is ReplicaState.ERROR
            and replica.attempt >= desired_model.attempt
            and _has_same_files(replica, desired_model)
        ):
            self._on_replica_changed(replica)
            return  # it failed, and nobody asked to try again or has found other files
        replica.attempt = desired_model.attempt
        if replica.state in (ReplicaState.READY, ReplicaState.ERROR, ReplicaState.DELETING):
            await self._engine_pool.remove_model(replica.model_id, grace_s=0)
            await replica.transition(ReplicaState.WANTED)
        found = (
            await asyncio.to_thread(self._find_existing_files, replica, desired_model)
            if self._keeps_existing_files
            else ()
        )
        replica.files = expected_fingerprints(desired_model.files, found)
        self._on_replica_changed(replica)
        async with self._download_semaphore:
            self._fetching_replicas.add(replica)
            try:
                await self._fetch_files(replica, desired_model)
            except DownloadFailed as failure:
                await replica.transition(ReplicaState.ERROR, error=str(failure))
            except OSError as failure:
                await replica.transition(
                    ReplicaState.ERROR, error=f"The files cannot be written: {failure.strerror}"
                )
            except Exception:
                # A defect of ours: it must not look like a pull that goes on.
                await replica.transition(
                    ReplicaState.ERROR, error="The pull failed for a reason unknown to llb; see its log"
                )
                raise
            finally:
                self._fetching_replicas.discard(replica)
                replica.downloads.clear()

    def on_sources_changed(self, replica: Replica) -> None:
        """There are other nodes to copy this model from than before."""
        for download in replica.downloads.values():
            download.on_sources_changed()

    async def remove_replica(self, replica: Replica) -> None:
        """Remove a model: running requests get a moment to end. What was not complete stays, as partials."""
        if replica.state is not ReplicaState.DELETING:
            await replica.transition(ReplicaState.DELETING)
        await self._engine_pool.remove_model(replica.model_id, grace_s=DELETE_GRACE_S)
        ours = [file for file in replica.files if not file.found]
        if replica.is_complete and ours:
            await _run_to_completion(
                partial(self._files.remove_files, replica.model_id, [file.name for file in ours])
            )
        elif not replica.is_complete:
            for file in ours:
                await _run_to_completion(
                    partial(self._files.demote_to_partial, replica.model_id, file.name, file.sha256)
                )
        await replica.transition(ReplicaState.GONE)

    def _find_existing_files(self, replica: Replica, desired_model: DesiredModel) -> list[FileSpec]:
        """The files that lay here before this host was told to hold them."""
        known = {(file.name, file.sha256): file.found for file in replica.files}
        return [
            spec
            for spec in desired_model.files
            if known.get((spec.name, spec.sha256), self._files.has_file(replica.model_id, spec))
        ]

    async def stop_serving(self, replica: Replica) -> None:
        """Neither wanted nor deleted: keep the files and do not serve them."""
        await self._engine_pool.remove_model(replica.model_id, grace_s=DELETE_GRACE_S)

    # --- looking after what is there ----------------------------------------------------------------

    async def check_files(self, replica: Replica) -> bool:
        """Whether a ready replica's files lie there as they were verified; if not it turns to Error."""
        problem = await asyncio.to_thread(self._find_file_problem, replica)
        if problem is None:
            return True
        if replica.state is ReplicaState.READY:
            await replica.transition(ReplicaState.ERROR, error=problem)
            await self._engine_pool.remove_model(replica.model_id, grace_s=0)
        return False

    def _find_file_problem(self, replica: Replica) -> str | None:
        for file in replica.files:
            try:
                mark = self._files.get_file_stamp(replica.model_id, file.name)
            except OSError as error:
                return f"file cannot be read: {file.name}: {error.strerror}"
            if mark is None:
                return f"file missing: {file.name}; retry fetches it again"
            if (mark.size_bytes, mark.mtime_ns) != (file.size_bytes, file.mtime_ns):
                return (
                    f"file changed since it was verified: {file.name}; retry checks it and fetches it again"
                )
        return None

    async def mark_unusable(self, replica: Replica, reason: str) -> None:
        """The engine will never load these files: say so where the person looks."""
        if replica.state is ReplicaState.READY:
            await replica.transition(ReplicaState.ERROR, error=reason)
            await self._engine_pool.remove_model(replica.model_id, grace_s=0)

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

    # --- fetching -----------------------------------------------------------------------------------

    async def _fetch_files(self, replica: Replica, desired_model: DesiredModel) -> None:
        if replica.state is not ReplicaState.DOWNLOADING:
            await replica.transition(ReplicaState.DOWNLOADING)
        arrived_bytes = 0
        for spec in desired_model.files:
            replica.downloaded_bytes = arrived_bytes
            await self._fetch_file(replica, spec, arrived_bytes)
            arrived_bytes += spec.size_bytes
        replica.downloaded_bytes = arrived_bytes
        await replica.transition(ReplicaState.VERIFYING)
        found = [file.found for file in replica.files]
        try:
            fingerprints = await asyncio.to_thread(self._verify_gguf_files, desired_model, found)
        except gguf.GgufError as refused:
            await replica.transition(ReplicaState.ERROR, error=f"The file cannot be used: {refused}")
            return
        await replica.transition(ReplicaState.READY, files=fingerprints)
        self._start_serving(replica, desired_model)

    async def _fetch_file(self, replica: Replica, spec: FileSpec, before_bytes: int) -> None:
        """Have one file in place: from the Hugging Face cache if it lies there, else from other nodes or the Hub."""
        cancelled = threading.Event()
        await _run_to_completion(
            partial(self._import_from_cache_or_free_space, replica.model_id, spec, cancelled), cancelled
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
        blamed = 0
        done = asyncio.ensure_future(download.wait())
        try:
            while not done.done():
                await asyncio.wait([done], timeout=PROGRESS_POLL_INTERVAL_S)
                for node_id in download.bad_sources[blamed:]:
                    blamed += 1
                    self._on_bad_source(
                        BadSourceReport(model_id=replica.model_id, sha256=spec.sha256, node_id=node_id)
                    )
                now = (before_bytes + download.downloaded_bytes, download.waiting_reason)
                if now != (replica.downloaded_bytes, replica.waiting_reason) and not done.done():
                    replica.downloaded_bytes, replica.waiting_reason = now
                    replica.bytes_per_second = download.bytes_per_second
                    self._on_replica_changed(replica)
            await done
        finally:
            # Whoever works on this replica next must find its files in peace.
            await download.stop()
            await asyncio.gather(done, return_exceptions=True)

    def _reserved_bytes(self, replica: Replica) -> int:
        """Bytes of the disk that the other running downloads still need."""
        others = (each for each in self._fetching_replicas if each is not replica)
        return sum(max(0, each.total_bytes - each.downloaded_bytes) for each in others)

    def _import_from_cache_or_free_space(
        self, model_id: str, spec: FileSpec, cancelled: threading.Event
    ) -> None:
        """Spare a fetch if the bytes lie in the Hugging Face cache; else let forgotten partials make way for it."""
        if self._files.has_file(model_id, spec):
            return
        cached = self._hub.find_cached_file(spec.sha256)
        with suppress(OSError):  # then it is fetched
            if cached is not None and self._files.import_file(model_id, cached, spec, cancelled):
                return
        self._files.free_up_space(
            spec.size_bytes + DISK_RESERVE_BYTES, protected_model_ids=self._get_wanted_model_ids()
        )

    def _verify_gguf_files(
        self, desired_model: DesiredModel, existing: list[bool]
    ) -> tuple[FileFingerprint, ...]:
        """Look into the verified files; raises `GgufError` for what llama.cpp could not load."""
        fingerprints = []
        for spec, was_here in zip(desired_model.files, existing, strict=True):
            with self._files.file_path(desired_model.model_id, spec.name).open("rb") as file:
                facts = gguf.read_metadata(file, file_size=spec.size_bytes)
                gguf.check_complete(facts, spec.size_bytes)
            mark = self._files.get_file_stamp(desired_model.model_id, spec.name)
            fingerprints.append(
                FileFingerprint(
                    name=spec.name,
                    size_bytes=spec.size_bytes,
                    mtime_ns=mark.mtime_ns if mark is not None else UNVERIFIED_MTIME_NS,
                    sha256=spec.sha256,
                    found=was_here,
                )
            )
        return tuple(fingerprints)


async def _run_to_completion(work: Callable[[], object], cancelled: threading.Event | None = None) -> None:
    """`work()` in a thread, awaited also when the caller is cancelled (told by `cancelled`): a thread cannot be stopped,
    and who works on these files next must not meet it."""
    working = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        await asyncio.shield(working)
    except asyncio.CancelledError:
        if cancelled is not None:
            cancelled.set()
        await asyncio.gather(working, return_exceptions=True)
        raise


def _has_same_files(replica: Replica, desired_model: DesiredModel) -> bool:
    return [(file.name, file.sha256) for file in replica.files] == [
        (spec.name, spec.sha256) for spec in desired_model.files
    ]
