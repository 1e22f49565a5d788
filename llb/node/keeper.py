"""What is done with one replica: fetch its files, look after them, serve them, remove them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from llb import gguf
from llb.engine.pool import EngineFiles, EnginePool
from llb.hub import Hub
from llb.node.downloads import Download, DownloadFailed
from llb.node.files import ModelFiles
from llb.node.peers import Copying, Peers
from llb.node.rates import RateLimiter
from llb.node.replica import UNVERIFIED, Replica, expected
from llb.node.timing import Timing
from llb.store.replicas import FileFingerprint
from llb.wire import Blame, FileSpec, ReplicaState, WantModel

POLL_S = 0.25  # how often a running download is looked at: progress is told at most 4 times a second
DISK_RESERVE_BYTES = 2_000_000_000
DELETE_GRACE_S = 30.0
S = ReplicaState


class Keeper:
    """Works on replicas, one task a replica at a time. Cancelling any of it leaves a state that can be taken up."""

    def __init__(
        self,
        hub: Hub,
        files: ModelFiles,
        pool: EnginePool,
        peers: Peers,
        *,
        max_downloads: int,
        download_rate: int | None,
        wanted: Callable[[], frozenset[str]],
        announce: Callable[[Replica], None],
        blame: Callable[[Blame], None],
        lent: bool,
        timing: Timing | None = None,
    ) -> None:
        """`wanted` are the ids of the models whose partials are somebody's work; `blame` hears who sent wrong bytes.

        `lent`: what lay here before is this host's own, and no balancer's to delete.
        """
        self._hub = hub
        self._files = files
        self._pool = pool
        self._downloads = asyncio.Semaphore(max_downloads)
        self._limiter = RateLimiter(download_rate)
        self._peers = peers
        self._fetching: set[Replica] = set()
        self._wanted = wanted
        self._announce = announce
        self._blame = blame
        self._lent = lent
        self._timing = timing

    def close(self) -> None:
        """Ask no other node any more; idempotent."""
        self._peers.close()

    # --- the three things a balancer can want -------------------------------------------------------

    async def hold(self, replica: Replica, want: WantModel) -> None:
        """Have every file of `want` here, verified, and serve it."""
        if replica.state is S.READY and _same_files(replica, want) and await self.check(replica):
            replica.attempt = want.attempt
            self._serve(replica, want)
            self._announce(replica)
            return
        if replica.state is S.ERROR and replica.attempt >= want.attempt and _same_files(replica, want):
            self._announce(replica)
            return  # it failed, and nobody asked to try again or has found other files
        replica.attempt = want.attempt
        if replica.state in (S.READY, S.ERROR, S.DELETING):
            await self._pool.withdraw(replica.model_id, grace_s=0)
            await replica.move(S.WANTED)
        found = await asyncio.to_thread(self._found, replica, want) if self._lent else ()
        replica.files = expected(want.files, found)
        self._announce(replica)
        async with self._downloads:
            self._fetching.add(replica)
            try:
                await self._fetch(replica, want)
            except DownloadFailed as failure:
                await replica.move(S.ERROR, error=str(failure))
            except OSError as failure:
                await replica.move(S.ERROR, error=f"The files cannot be written: {failure.strerror}")
            except Exception:
                # A defect of ours: it must not look like a pull that goes on.
                await replica.move(S.ERROR, error="The pull failed for a reason unknown to llb; see its log")
                raise
            finally:
                self._fetching.discard(replica)
                replica.downloads.clear()

    def look_again(self, replica: Replica) -> None:
        """There are other nodes to copy this model from than before."""
        for download in replica.downloads.values():
            download.look_again()

    async def drop(self, replica: Replica) -> None:
        """Remove a model: running requests get a moment to end. What was not complete stays, as partials."""
        if replica.state is not S.DELETING:
            await replica.move(S.DELETING)
        await self._pool.withdraw(replica.model_id, grace_s=DELETE_GRACE_S)
        ours = [file for file in replica.files if not file.found]
        if replica.complete and ours:
            await _to_its_end(partial(self._files.remove, replica.model_id, [file.name for file in ours]))
        elif not replica.complete:
            for file in ours:
                await _to_its_end(partial(self._files.retire, replica.model_id, file.name, file.sha256))
        await replica.move(S.GONE)

    def _found(self, replica: Replica, want: WantModel) -> list[FileSpec]:
        """The files that lay here before this host was told to hold them."""
        known = {(file.name, file.sha256): file.found for file in replica.files}
        return [
            spec
            for spec in want.files
            if known.get((spec.name, spec.sha256), self._files.present(replica.model_id, spec))
        ]

    async def rest(self, replica: Replica) -> None:
        """Neither wanted nor deleted: keep the files and do not serve them."""
        await self._pool.withdraw(replica.model_id, grace_s=DELETE_GRACE_S)

    # --- looking after what is there ----------------------------------------------------------------

    async def check(self, replica: Replica) -> bool:
        """Whether a ready replica's files lie there as they were verified; if not it turns to Error."""
        problem = await asyncio.to_thread(self._problem, replica)
        if problem is None:
            return True
        if replica.state is S.READY:
            await replica.move(S.ERROR, error=problem)
            await self._pool.withdraw(replica.model_id, grace_s=0)
        return False

    def _problem(self, replica: Replica) -> str | None:
        for file in replica.files:
            try:
                mark = self._files.fingerprint(replica.model_id, file.name)
            except OSError as error:
                return f"file cannot be read: {file.name}: {error.strerror}"
            if mark is None:
                return f"file missing: {file.name}; retry fetches it again"
            if (mark.size_bytes, mark.mtime_ns) != (file.size_bytes, file.mtime_ns):
                return (
                    f"file changed since it was verified: {file.name}; retry checks it and fetches it again"
                )
        return None

    async def refuse(self, replica: Replica, reason: str) -> None:
        """The engine will never load these files: say so where the person looks."""
        if replica.state is S.READY:
            await replica.move(S.ERROR, error=reason)
            await self._pool.withdraw(replica.model_id, grace_s=0)

    def _serve(self, replica: Replica, want: WantModel) -> None:
        paths = [self._files.path(replica.model_id, file.name) for file in replica.files]
        self._pool.serve(
            replica.model_id,
            EngineFiles(
                model_path=paths[0],
                extra_paths=tuple(paths[1:]),
                capabilities=want.capabilities,
                required_memory_bytes=want.required_memory_bytes,
            ),
        )
        self._pool.pin(replica.model_id, replica.pinned)

    # --- fetching -----------------------------------------------------------------------------------

    async def _fetch(self, replica: Replica, want: WantModel) -> None:
        if replica.state is not S.DOWNLOADING:
            await replica.move(S.DOWNLOADING)
        arrived_bytes = 0
        for spec in want.files:
            replica.downloaded_bytes = arrived_bytes
            await self._fetch_file(replica, spec, arrived_bytes)
            arrived_bytes += spec.size_bytes
        replica.downloaded_bytes = arrived_bytes
        await replica.move(S.VERIFYING)
        found = [file.found for file in replica.files]
        try:
            fingerprints = await asyncio.to_thread(self._inspect, want, found)
        except gguf.GgufError as refused:
            await replica.move(S.ERROR, error=f"The file cannot be used: {refused}")
            return
        await replica.move(S.READY, files=fingerprints)
        self._serve(replica, want)

    async def _fetch_file(self, replica: Replica, spec: FileSpec, before_bytes: int) -> None:
        """Have one file in place: from the Hugging Face cache if it lies there, else from other nodes or the Hub."""
        cancelled = threading.Event()
        await _to_its_end(partial(self._prepare, replica.model_id, spec, cancelled), cancelled)
        download = Download(
            spec,
            replica.directory,
            hub=self._hub,
            limiter=self._limiter,
            copying=Copying(
                replica.model_id, self._peers, lambda: replica.want.copies if replica.want is not None else ()
            ),
            reserve_bytes=DISK_RESERVE_BYTES + self._promised_bytes(replica),
            timing=self._timing,
        )
        replica.downloads[spec.sha256] = download
        download.start()
        blamed = 0
        done = asyncio.ensure_future(download.wait())
        try:
            while not done.done():
                await asyncio.wait([done], timeout=POLL_S)
                for node_id in download.blamed[blamed:]:
                    blamed += 1
                    self._blame(Blame(model_id=replica.model_id, sha256=spec.sha256, node_id=node_id))
                now = (before_bytes + download.downloaded_bytes, download.waiting)
                if now != (replica.downloaded_bytes, replica.waiting) and not done.done():
                    replica.downloaded_bytes, replica.waiting = now
                    replica.bytes_per_second = download.bytes_per_second
                    self._announce(replica)
            await done
        finally:
            # Whoever works on this replica next must find its files in peace.
            await download.stop()
            await asyncio.gather(done, return_exceptions=True)

    def _promised_bytes(self, replica: Replica) -> int:
        """Bytes of the disk that the other running downloads still need."""
        others = (each for each in self._fetching if each is not replica)
        return sum(max(0, each.total_bytes - each.downloaded_bytes) for each in others)

    def _prepare(self, model_id: str, spec: FileSpec, cancelled: threading.Event) -> None:
        """Spare a fetch if the bytes lie in the Hugging Face cache; else let forgotten partials make way for it."""
        if self._files.present(model_id, spec):
            return
        cached = self._hub.cached_file(spec.sha256)
        with suppress(OSError):  # then it is fetched
            if cached is not None and self._files.adopt(model_id, cached, spec, cancelled):
                return
        self._files.make_room(spec.size_bytes + DISK_RESERVE_BYTES, keep=self._wanted())

    def _inspect(self, want: WantModel, found: list[bool]) -> tuple[FileFingerprint, ...]:
        """Look into the verified files; raises `GgufError` for what llama.cpp could not load."""
        fingerprints = []
        for spec, was_here in zip(want.files, found, strict=True):
            with self._files.path(want.model_id, spec.name).open("rb") as file:
                facts = gguf.read_header(file, file_size=spec.size_bytes)
                gguf.check_complete(facts, spec.size_bytes)
            mark = self._files.fingerprint(want.model_id, spec.name)
            fingerprints.append(
                FileFingerprint(
                    name=spec.name,
                    size_bytes=spec.size_bytes,
                    mtime_ns=mark.mtime_ns if mark is not None else UNVERIFIED,
                    sha256=spec.sha256,
                    found=was_here,
                )
            )
        return tuple(fingerprints)


async def _to_its_end(work: Callable[[], object], cancelled: threading.Event | None = None) -> None:
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


def _same_files(replica: Replica, want: WantModel) -> bool:
    return [(file.name, file.sha256) for file in replica.files] == [
        (spec.name, spec.sha256) for spec in want.files
    ]
