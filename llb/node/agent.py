"""Node agent: reconciles the replicas of this host with the desired state, and reports them."""

from __future__ import annotations

import asyncio
import logging
import platform
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path

from msgspec import structs

from llb import __version__, errors
from llb.base.backoff import Backoff
from llb.base.events import Topic
from llb.base.tasks import TaskSupervisor, run_together
from llb.config import Config
from llb.engine.builds.selector import BuildSelector
from llb.engine.lease import Lease
from llb.engine.pool import EnginePool
from llb.hardware import ComputeDevice, HardwareInfo, HardwareProbe, MemoryBudget
from llb.hub import HubClient
from llb.node.download.peer_fetch import PeerClient
from llb.node.download.timeouts import DownloadTimeouts
from llb.node.files import ModelFiles
from llb.node.host_hardware import HostHardware
from llb.node.replica import Replica
from llb.node.replica_worker import DISK_RESERVE_BYTES, ReplicaWorker
from llb.node.sharing.growing_file import GrowingFile
from llb.node.sharing.peer_file_server import PeerFileServer
from llb.policy.keep_alive import KeepAlive
from llb.store.database import Database
from llb.store.sqlite_errors import describe_sqlite_error
from llb.store.tables import replicas as store
from llb.store.tables.replicas import ReplicaRecord
from llb.wire import (
    PROTOCOL_VERSION,
    DesiredState,
    Drain,
    EngineInfo,
    EngineReport,
    EngineState,
    FileSpec,
    Heartbeat,
    Hello,
    LinkClosed,
    LinkRejected,
    LoadOptions,
    NodeLink,
    NodeMessage,
    OpenTunnels,
    PartialReport,
    ReplicaState,
    Welcome,
    text_code_of,
)

log = logging.getLogger(__name__)

HEARTBEAT_INTERVAL_S = 5.0
# Long enough for a large model on a slow disk.
LOAD_TIMEOUT_S = 300.0
CLOCK_SKEW_WARNING_S = 60.0
# After an engine has become busy or idle.
USE_REPORT_DELAY_S = 0.1
PARTIAL_SWEEP_INTERVAL_S = 3600.0
# Between two attempts to store a replica's state while the database cannot be written.
STORE_BACKOFF_INITIAL_S, STORE_BACKOFF_MAX_S = 0.5, 30.0
PARTIAL_MAX_AGE_S = 7 * 86_400.0


class NodeAgent:
    """Owner of the replicas of this host. `run_link()` serves one link; replicas outlive links."""

    def __init__(
        self,
        *,
        config: Config,
        db: Database,
        hub: HubClient,
        files: ModelFiles,
        hardware_probe: HardwareProbe,
        engine_pool: EnginePool,
        engine_builds: BuildSelector | None = None,
        get_addresses: Callable[[], tuple[str, ...]] = tuple,
        timeouts: DownloadTimeouts | None = None,
    ) -> None:
        # Set by `start()`: the id is kept in the database, the trust anchors by TLS and by the membership.
        self.node_id = ""
        self.balancer_anchor = ""
        self._anchor = ""
        self._get_addresses = get_addresses
        self.welcomed: Topic[Welcome] = Topic()
        # Published with the number of idle tunnels that a balancer which cannot dial this node asks for.
        self.tunnels_requested: Topic[int] = Topic()
        self.engine_pool = engine_pool
        self._config = config
        self._db = db
        self._files = files
        self._host = HostHardware(
            hardware_probe, engine_pool, engine_builds, memory_limit_bytes=config.memory_limit_bytes
        )
        self._replica_worker = ReplicaWorker(
            hub,
            files,
            engine_pool,
            PeerClient(lambda: (config.join or "", self.balancer_anchor)),
            max_downloads=config.max_downloads,
            download_rate=config.download_rate,
            get_wanted_model_ids=self._wanted_model_ids,
            on_replica_changed=self._report_replica,
            on_bad_source=self._enqueue_message,
            timeouts=timeouts,
            keeps_existing_files=config.join is not None,
        )
        self.peer_file_server = PeerFileServer(self._find_growing_file)
        self._replicas: dict[str, Replica] = {}
        self._instance = secrets.token_hex(8)
        self._revision = -1
        self._stored_last_used: dict[str, float] = {}
        self._is_last_used_failing = False
        self._tasks = TaskSupervisor("agent")
        # Set once the first desired state has arrived, after which the files on disk are served.
        self.desired_state_received = asyncio.Event()
        self._outbox: asyncio.Queue[NodeMessage] | None = None
        self._hardware_info: HardwareInfo | None = None
        self._slots_per_engine = config.parallel
        # Timers of reports that an engine has become busy or idle, by model.
        self._use_timers: dict[str, asyncio.TimerHandle] = {}

    # --- lifecycle ----------------------------------------------------------------------------------

    async def start(self, node_id: str, *, anchor: str = "", balancer_anchor: str = "") -> None:
        """Load the stored replicas and check their files.

        `anchor` is the trust anchor of this host's TLS certificate, `balancer_anchor` that of its balancer.
        """
        self.node_id, self._anchor, self.balancer_anchor = node_id, anchor, balancer_anchor
        for record in await store.list_by_node(self._db, self.node_id):
            replica = self._create_replica(record)
            if replica.state is ReplicaState.READY:
                await self._replica_worker.check_files(replica)
        self._tasks.spawn(self._sweep_partials(), "sweep")

    async def close(self) -> None:
        """Stop downloads and engines; downloaded bytes stay on disk."""
        await self._tasks.close()
        for timer in self._use_timers.values():
            timer.cancel()
        self._use_timers.clear()
        try:
            await self._store_last_used()
        finally:
            self.peer_file_server.close()
            self._replica_worker.close()
            await self.engine_pool.close()
            self._host.close()

    async def run_link(self, link: NodeLink) -> None:
        """Exchange messages with the balancer over `link` until it closes."""
        hardware_info = await self._host.ensure_probed()
        self._hardware_info = hardware_info
        self._outbox = asyncio.Queue()
        # Revisions order the messages of one link only.
        self._revision = -1
        try:
            # Right after the hello: without a heartbeat the balancer does not know the free memory and disk.
            heartbeat = await self._build_heartbeat(hardware_info)
            await link.send(self._build_hello(hardware_info))
            await link.send(heartbeat)
            await run_together(
                asyncio.create_task(self._send_messages(link, self._outbox), name="agent.send"),
                asyncio.create_task(self._send_heartbeats(link, hardware_info), name="agent.heartbeat"),
                asyncio.create_task(self._maintain_build(), name="agent.build"),
                asyncio.create_task(self._receive_messages(link), name="agent.receive"),
                asyncio.create_task(self._maintain_replicas(), name="agent.maintain"),
            )
        except* LinkClosed:
            pass
        finally:
            self._outbox = None
            await link.close()

    async def _send_messages(self, link: NodeLink, outbox: asyncio.Queue[NodeMessage]) -> None:
        while True:
            await link.send(await outbox.get())

    async def _send_heartbeats(self, link: NodeLink, hardware_info: HardwareInfo) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_INTERVAL_S)
            await link.send(await self._build_heartbeat(hardware_info))
            self._host.refresh_budget()

    async def _maintain_build(self) -> None:
        """Change to a better build of llama.cpp once it is installed, and tell the balancer."""
        while True:
            await asyncio.sleep(HEARTBEAT_INTERVAL_S)
            hardware_info = await self._host.change_build()
            if hardware_info is not None:
                self._hardware_info = hardware_info
                self._enqueue_message(self._build_hello(hardware_info))
                self._enqueue_message(await self._build_heartbeat(hardware_info))

    async def _maintain_replicas(self) -> None:
        """Check the files of ready replicas and store times of last use, at the pace of the heartbeat.

        A task of its own: these write to the database, and a write that waits for a lock or for a disk with
        room must not delay the heartbeat, without which the balancer takes this node for offline.
        """
        while True:
            await asyncio.sleep(HEARTBEAT_INTERVAL_S)
            for replica in list(self._replicas.values()):
                if replica.state is ReplicaState.READY and not replica.files_lock.locked():
                    await self._replica_worker.check_files(replica)
            await self._store_last_used()

    async def _receive_messages(self, link: NodeLink) -> None:
        while True:
            message = await link.receive()
            match message:
                case DesiredState():
                    self.desired_state_received.set()
                    self._reconcile(message)
                case Welcome():
                    self._check_clock_skew(message)
                    self.welcomed.publish(message)
                case OpenTunnels():
                    self.tunnels_requested.publish(message.spares)
                case Drain() | LinkRejected():
                    # The balancer alone enforces draining; the link itself keeps the reason of a rejection.
                    pass

    @staticmethod
    def _check_clock_skew(welcome: Welcome) -> None:
        skew_s = abs(time.time() - welcome.time)
        if welcome.time and skew_s > CLOCK_SKEW_WARNING_S:
            log.warning(
                "the clocks of this host and its balancer differ by %.0f s: synchronise both with NTP, or "
                "copies between nodes may be refused",
                skew_s,
            )

    async def _sweep_partials(self) -> None:
        """Remove partial downloads that were abandoned for `PARTIAL_MAX_AGE_S`."""
        while True:
            try:
                await asyncio.to_thread(
                    self._files.remove_old_partials, PARTIAL_MAX_AGE_S, self._wanted_model_ids()
                )
            except OSError as error:
                log.warning("old partial downloads could not be removed: %s", error)
            await asyncio.sleep(PARTIAL_SWEEP_INTERVAL_S)

    @property
    def capacity(self) -> tuple[MemoryBudget, tuple[ComputeDevice, ...]] | None:
        """Memory that all engines of this host together may use, and its GPUs; None before the probe."""
        return self._host.capacity

    @property
    def hardware_problems(self) -> tuple[str, ...]:
        """Problems of this host, as sentences; empty before the hardware was probed."""
        return self._host.problems

    @property
    def engine_info(self) -> EngineInfo | None:
        """Build of llama.cpp in use; None before the hardware was probed."""
        return self._host.engine

    def set_slots_per_engine(self, slots: int) -> None:
        """Set the slots of models without own ones, and tell the balancer with a heartbeat."""
        if slots != self._slots_per_engine:
            self._slots_per_engine = slots
            self._tasks.spawn(self._send_heartbeat_now(), "heartbeat")

    async def _send_heartbeat_now(self) -> None:
        if self._hardware_info is not None:
            self._enqueue_message(await self._build_heartbeat(self._hardware_info))

    def _wanted_model_ids(self) -> frozenset[str]:
        return frozenset(
            replica.model_id for replica in self._replicas.values() if replica.desired_model is not None
        )

    # --- reports ------------------------------------------------------------------------------------

    def _build_hello(self, hardware_info: HardwareInfo) -> Hello:
        budget = self._host.budget(hardware_info)
        return Hello(
            protocol=PROTOCOL_VERSION,
            node_id=self.node_id,
            name=self._config.name,
            version=__version__,
            platform=platform.platform(terse=True),
            addresses=self._get_addresses(),
            anchor=self._anchor,
            hardware=hardware_info.hardware,
            memory_budget_bytes=budget.total_bytes,
            vram_budget_bytes=sum(budget.vram_bytes),
            max_downloads=self._config.max_downloads,
            slots_per_engine=self._slots_per_engine,
            replicas=tuple(replica.to_report() for replica in self._replicas.values()),
            instance=self._instance,
            problems=tuple(map(str, self._host.problems)),
            problem_codes=tuple(map(text_code_of, self._host.problems)),
        )

    async def _build_heartbeat(self, hardware_info: HardwareInfo) -> Heartbeat:
        meters = await self._host.measure_utilisation()
        disk_free_bytes = await asyncio.to_thread(self._available_disk_bytes)
        partials = await asyncio.to_thread(self._kept_partials)
        # Read together after the waits, in which a build or an engine may change: what is older than the
        # messages before it would take them back.
        return Heartbeat(
            hardware=self._host.current(hardware_info),
            meters=meters,
            memory_used_bytes=self.engine_pool.memory_used_bytes,
            disk_free_bytes=disk_free_bytes,
            engines=self.engine_pool.engine_reports(),
            partials=partials,
            slots_per_engine=self._slots_per_engine,
        )

    def _kept_partials(self) -> tuple[PartialReport, ...]:
        """Return what cancelled downloads left on the disk; present replicas report theirs themselves."""
        sizes: dict[str, int] = {}
        for file in self._files.list_partials():
            if file.model_id not in self._replicas:
                sizes[file.model_id] = sizes.get(file.model_id, 0) + file.size_bytes
        return tuple(
            PartialReport(model_id=model_id, size_bytes=size_bytes)
            for model_id, size_bytes in sorted(sizes.items())
        )

    def _available_disk_bytes(self) -> int:
        """Bytes that more models may occupy: free disk less the reserve, within `--disk-limit`."""
        free = max(0, self._files.free_disk_bytes() - DISK_RESERVE_BYTES)
        if self._config.disk_limit_bytes is not None:
            free = min(free, max(0, self._config.disk_limit_bytes - self._files.disk_used_bytes()))
        return free

    def _report_replica(self, replica: Replica) -> None:
        if replica.state is ReplicaState.GONE and self._replicas.get(replica.model_id) is replica:
            del self._replicas[replica.model_id]
        self._enqueue_message(replica.to_report())

    def _enqueue_message(self, message: NodeMessage) -> None:
        if self._outbox is not None:
            self._outbox.put_nowait(message)

    def on_engine_changed(self, report: EngineReport) -> None:
        """Report an engine; whether a loaded one has requests, a little later.

        An engine may become busy and idle again with each request, and the balancer counts the busy slots
        itself.
        """
        replica = self._replicas.get(report.model_id)
        if replica is None:
            return
        before = replica.engine
        replica.engine = None if report.state is EngineState.STOPPED else report
        if EngineState.BUSY in (report.state, None if before is None else before.state):
            replica.last_used = time.time()
        # What an engine has tried is known from now on.
        replica.template = report.template or replica.template
        if before is None or not _differ_only_in_use(before, report):
            self._report_replica(replica)
        elif report.model_id not in self._use_timers:
            self._use_timers[report.model_id] = asyncio.get_running_loop().call_later(
                USE_REPORT_DELAY_S, self._report_use, report.model_id
            )

    def _report_use(self, model_id: str) -> None:
        del self._use_timers[model_id]
        if (replica := self._replicas.get(model_id)) is not None:
            self._report_replica(replica)

    # --- reconciliation -----------------------------------------------------------------------------

    def _reconcile(self, desired_state: DesiredState) -> None:
        """Start the work that brings every replica to its desired state."""
        if desired_state.revision < self._revision:
            return
        self._revision = desired_state.revision
        self._replica_worker.set_download_rate(desired_state.download_rate)
        wanted = {model.model_id: model for model in desired_state.models}
        for rank, (model_id, model) in enumerate(wanted.items()):
            replica = self._replicas.get(model_id)
            # A replica that is gone stays in the table until its removal is stored.
            if replica is None or replica.state is ReplicaState.GONE:
                replica = self._create_replica(
                    ReplicaRecord(
                        node_id=self.node_id,
                        model_id=model_id,
                        attempt=model.attempt,
                        state=ReplicaState.WANTED,
                    )
                )
            replica.rank = rank
            if not model.is_same_download(replica.desired_model):
                replica.desired_model, replica.is_deleting = model, False
                self._replace_work(replica, partial(self._replica_worker.ensure_replica, replica, model))
            elif replica.desired_model != model:
                replica.desired_model = model
                self._replica_worker.on_sources_changed(replica)
            self.engine_pool.set_options(model_id, model.options)
            self.engine_pool.set_draft(model_id, model.draft, model.speculation)
            if model.pinned is not None and model.pinned != replica.pinned:
                replica.pinned = model.pinned
                self.engine_pool.set_pinned(model_id, model.pinned)
                self._tasks.spawn(self._persist_replica(replica), f"pin.{model_id}")
        for model_id in set(self._replicas) - set(wanted):
            replica = self._replicas[model_id]
            if model_id in desired_state.deleted:
                if not replica.is_deleting or replica.current_task is None or replica.current_task.done():
                    replica.is_deleting = True
                    self._replace_work(replica, partial(self._replica_worker.remove_replica, replica))
            elif replica.desired_model is not None:
                self._replace_work(replica, partial(self._replica_worker.stop_serving, replica))
            replica.desired_model = None

    def _replace_work(self, replica: Replica, work: Callable[[], Coroutine[None, None, None]]) -> None:
        """Cancel the current work on a replica and start `work`; the files lock keeps their order."""
        if replica.current_task is not None:
            replica.current_task.cancel()

        async def run_work() -> None:
            async with replica.files_lock:
                await work()

        replica.current_task = self._tasks.spawn(run_work(), f"replica.{replica.model_id}")

    def _create_replica(self, record: ReplicaRecord) -> Replica:
        replica = Replica(
            record, self._files.model_directory(record.model_id), self._persist, self._report_replica
        )
        self._replicas[record.model_id] = replica
        return replica

    async def _persist(self, record: ReplicaRecord) -> None:
        """Store a record, retrying for as long as the database cannot be written.

        A state is reported only once it is stored.
        """
        backoff = Backoff(STORE_BACKOFF_INITIAL_S, STORE_BACKOFF_MAX_S)
        frees_disk = record.state in (ReplicaState.DELETING, ReplicaState.GONE)
        while True:
            try:
                async with self._db.write(uses_ballast=frees_disk) as tx:
                    if record.state is ReplicaState.GONE:
                        await store.remove(tx, record.node_id, record.model_id)
                    else:
                        await store.put(tx, record)
                return
            except sqlite3.Error as error:
                if (trouble := describe_sqlite_error(error)) is None:
                    raise
                log.error(
                    "state %s of model %s could not be stored: %s; trying again",
                    record.state,
                    record.model_id,
                    trouble,
                )
            await asyncio.sleep(backoff.next_delay_s())

    async def _persist_replica(self, replica: Replica) -> None:
        """Store a replica as it is when the task runs: a record made earlier could undo a later one."""
        await self._persist(replica.to_record())

    # --- use ----------------------------------------------------------------------------------------

    async def acquire_lease(
        self, model_id: str, *, deadline_s: float, keep_alive: KeepAlive | None = None
    ) -> Lease:
        """Lease an engine with this model in memory, loading it if necessary; release the lease after use.

        The files are checked before a load. The pool itself leases what is loaded: `EnginePool.lease_loaded`.
        Raises `ModelFailed`, `ModelLoading`, `EngineFailed`, `InsufficientMemory`.
        """
        replica = self._replicas.get(model_id)
        if replica is None or replica.state is not ReplicaState.READY:
            raise errors.ModelFailed(f"Model '{model_id}' is not on this node")
        replica.last_used = time.time()
        if replica.engine is None:
            problem = await self._replica_worker.find_file_problem(replica)
            if problem is not None:
                self._mark_unusable(replica, problem)
                raise errors.ModelFailed.from_unusable_files(model_id, problem)
        try:
            return await self.engine_pool.acquire_lease(
                model_id, deadline_s=deadline_s, keep_alive=keep_alive
            )
        except errors.ModelFailed as refused:
            self._mark_unusable(replica, refused.reason or refused.text)
            raise

    def _mark_unusable(self, replica: Replica, reason: str) -> None:
        """In a task: storing the state waits for a database that can be written, a request does not."""
        self._tasks.spawn(self._replica_worker.mark_unusable(replica, reason), f"unusable.{replica.model_id}")

    def _find_growing_file(self, model_id: str, sha256: str) -> GrowingFile | None:
        replica = self._replicas.get(model_id)
        return (
            replica.find_growing_file(sha256)
            if replica is not None and replica.desired_model is not None
            else None
        )

    async def load_model(self, model_id: str, options: LoadOptions | None = None) -> None:
        """Load the model into memory without a request for it, with `options` where they are given.

        One that is in memory with others is loaded again, once its running requests have ended. Raises as
        `acquire_lease()` does.
        """
        if options is not None:
            self.engine_pool.set_options(model_id, options)
        if options is not None and self.engine_pool.is_loaded_otherwise(model_id):
            await self.engine_pool.unload(model_id)
        async with await self.acquire_lease(model_id, deadline_s=LOAD_TIMEOUT_S):
            pass

    async def import_file(self, model_id: str, source: Path, spec: FileSpec) -> bool:
        """Import a file of this host as `spec`; False if its content differs. Raises `InvalidRequest`."""
        cancelled = threading.Event()
        try:
            return await asyncio.to_thread(self._files.import_file, model_id, source, spec, cancelled)
        except OSError as error:
            raise errors.InvalidRequest(
                f"{source.name} cannot be read: {error.strerror}", param="path"
            ) from None
        finally:
            cancelled.set()

    async def discard_partial(self, model_id: str) -> None:
        """Remove what a cancelled download of the model left; of a present one, once it is cancelled."""
        replica = self._replicas.get(model_id)
        if replica is None:
            await asyncio.to_thread(self._files.discard_partials, model_id)
        else:
            replica.discards_partial = True

    async def unload_model(self, model_id: str) -> None:
        """Free a model's memory after its running requests. Raises `ModelNotRegistered`."""
        if model_id not in self._replicas:
            raise errors.ModelNotRegistered(model_id)
        await self.engine_pool.unload(model_id)

    async def _store_last_used(self) -> None:
        """Store when models were last used; times that could not be written are kept for the next call."""
        for replica in self._replicas.values():
            if replica.engine is not None and replica.engine.state is EngineState.BUSY:
                replica.last_used = time.time()
        changed = {
            replica.model_id: replica.last_used
            for replica in self._replicas.values()
            if replica.last_used is not None
            and replica.last_used != self._stored_last_used.get(replica.model_id)
        }
        if not changed:
            return
        try:
            async with self._db.write() as tx:
                await store.update_last_used(tx, self.node_id, changed)
        except sqlite3.Error as error:
            # A time of last use is not worth the link, whose tasks end together.
            if not self._is_last_used_failing:
                log.warning("times of last use could not be stored: %s; trying again", error)
            self._is_last_used_failing = True
            return
        self._is_last_used_failing = False
        self._stored_last_used |= changed


def _differ_only_in_use(before: EngineReport, after: EngineReport) -> bool:
    states = (EngineState.READY, EngineState.BUSY)
    if before.state not in states or after.state not in states:
        return False
    same_use: EngineReport = structs.replace(after, state=before.state, busy=before.busy)
    return same_use == before
