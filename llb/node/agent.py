"""The node's reconciler: makes true what its balancer wants, and reports what is."""

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

from llb import __version__, errors
from llb.base.events import Topic
from llb.base.tasks import TaskSupervisor
from llb.config import Config
from llb.engine.pool import EnginePool, Lease
from llb.hardware import HardwareInfo, HardwareProbe
from llb.hub import HubClient
from llb.node.download.peer_fetch import PeerClient
from llb.node.download.timeouts import DownloadTimeouts
from llb.node.files import ModelFiles
from llb.node.replica import Replica
from llb.node.replica_worker import DISK_RESERVE_BYTES, ReplicaWorker
from llb.node.sharing.growing_file import GrowingFile
from llb.node.sharing.peer_file_server import PeerFileServer
from llb.store.database import Database
from llb.store.sqlite_errors import describe_sqlite_error
from llb.store.tables import replicas as store
from llb.store.tables.replicas import ReplicaRecord
from llb.wire import (
    PROTOCOL_VERSION,
    DesiredState,
    Drain,
    EngineReport,
    EngineState,
    FileSpec,
    Heartbeat,
    Hello,
    LinkClosed,
    LinkRejected,
    NodeLink,
    NodeMessage,
    OpenTunnels,
    ReplicaState,
    Welcome,
)

log = logging.getLogger(__name__)

HEARTBEAT_INTERVAL_S = 5.0
LOAD_TIMEOUT_S = 300.0  # a large model from a slow disk
CLOCK_SKEW_WARNING_S = 60.0
PARTIAL_SWEEP_INTERVAL_S = 3600.0
# Between two attempts at noting what a replica is, where the disk does not take it.
STORE_BACKOFF_INITIAL_S, STORE_BACKOFF_MAX_S = 0.5, 30.0
PARTIAL_MAX_AGE_S = 7 * 86_400.0
S = ReplicaState


class NodeAgent:
    """Owns the replicas of this host. `run(link)` serves one link; replicas live on between links."""

    def __init__(
        self,
        *,
        config: Config,
        db: Database,
        hub: HubClient,
        files: ModelFiles,
        hardware_probe: HardwareProbe,
        engine_pool: EnginePool,
        get_addresses: Callable[[], tuple[str, ...]] = tuple,
        timeouts: DownloadTimeouts | None = None,
    ) -> None:
        # The id is kept in the database, the trust anchors by TLS and by the membership: known at the start.
        self.node_id = ""
        self.balancer_anchor = ""
        self._anchor = ""
        self._get_addresses = get_addresses
        self.welcomed: Topic[Welcome] = Topic()
        # The balancer cannot dial this node: number of idle tunnels that it wants.
        self.tunnels_requested: Topic[int] = Topic()
        self.engine_pool = engine_pool
        self._config = config
        self._db = db
        self._files = files
        self._hardware_probe = hardware_probe
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
        self._stored_last_used: dict[str, float] = {}  # as it is stored
        self._tasks = TaskSupervisor("agent")
        self.desired_state_received = (
            asyncio.Event()
        )  # a balancer has said what it wants: what lies here is being served
        self._outbox: asyncio.Queue[NodeMessage] | None = None
        self._hardware_info: HardwareInfo | None = None

    # --- life ---------------------------------------------------------------------------------------

    async def start(self, node_id: str, *, anchor: str = "", balancer_anchor: str = "") -> None:
        """Load the replicas that this node held when it last ran, and check their files.

        `anchor` is the trust anchor of this host's TLS certificate, `balancer_anchor` that of its balancer.
        """
        self.node_id, self._anchor, self.balancer_anchor = node_id, anchor, balancer_anchor
        for record in await store.list_by_node(self._db, self.node_id):
            replica = self._create_replica(record)
            if replica.state is S.READY:
                await self._replica_worker.check_files(replica)
        self._tasks.spawn(self._sweep_partials(), "sweep")

    async def close(self) -> None:
        """Stop downloads and engines; what has arrived stays where it is."""
        await self._tasks.close()
        try:
            await self._store_last_used()
        finally:
            self.peer_file_server.close()
            self._replica_worker.close()
            await self.engine_pool.close()
            self._hardware_probe.close()

    async def run_link(self, link: NodeLink) -> None:
        """Speak with the balancer over `link` until it ends."""
        if self._hardware_info is None:
            self._hardware_info = await self._hardware_probe.probe()
            self.engine_pool.set_budget(self._hardware_info.memory_budget(self._config.memory_limit_bytes))
        self._outbox = asyncio.Queue()
        self._revision = -1  # messages overtake each other on different links only
        try:
            # Right behind the hello: what a node has room for is not known before.
            heartbeat = await self._build_heartbeat(self._hardware_info)
            await link.send(self._build_hello(self._hardware_info))
            await link.send(heartbeat)
            async with asyncio.TaskGroup() as both_ways:
                both_ways.create_task(self._send_messages(link, self._outbox), name="agent.speak")
                both_ways.create_task(self._send_heartbeats(link, self._hardware_info), name="agent.beat")
                both_ways.create_task(self._receive_messages(link), name="agent.listen")
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
            for replica in list(self._replicas.values()):
                if replica.state is S.READY and not replica.files_lock.locked():
                    await self._replica_worker.check_files(replica)
            await self._store_last_used()
            await link.send(await self._build_heartbeat(hardware_info))

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
                    pass  # the balancer alone decides what a draining node is asked; the link says who refused it

    @staticmethod
    def _check_clock_skew(welcome: Welcome) -> None:
        apart_s = abs(time.time() - welcome.time)
        if welcome.time and apart_s > CLOCK_SKEW_WARNING_S:
            log.warning(
                "the clocks of this host and of its balancer are %.0f s apart: set both by the network (NTP), or "
                "copies between nodes may be refused",
                apart_s,
            )

    async def _sweep_partials(self) -> None:
        """Partials that nobody came back for are removed after a week."""
        while True:
            try:
                await asyncio.to_thread(
                    self._files.remove_old_partials, PARTIAL_MAX_AGE_S, self._wanted_model_ids()
                )
            except OSError as error:
                log.warning("old partial downloads were not removed: %s", error)
            await asyncio.sleep(PARTIAL_SWEEP_INTERVAL_S)

    @property
    def hardware_problems(self) -> tuple[str, ...]:
        """What is wrong with this host, as sentences; empty until it was looked at."""
        return self._hardware_info.problems if self._hardware_info is not None else ()

    def _wanted_model_ids(self) -> frozenset[str]:
        return frozenset(
            replica.model_id for replica in self._replicas.values() if replica.desired_model is not None
        )

    # --- what it says -------------------------------------------------------------------------------

    def _build_hello(self, hardware_info: HardwareInfo) -> Hello:
        budget = hardware_info.memory_budget(self._config.memory_limit_bytes)
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
            slots_per_engine=self._config.parallel,
            replicas=tuple(replica.to_report() for replica in self._replicas.values()),
            instance=self._instance,
        )

    async def _build_heartbeat(self, hardware_info: HardwareInfo) -> Heartbeat:
        return Heartbeat(
            hardware=self._hardware_probe.hardware or hardware_info.hardware,
            meters=await self._hardware_probe.measure_utilisation(),
            memory_used_bytes=self.engine_pool.memory_used_bytes,
            disk_free_bytes=await asyncio.to_thread(self._available_disk_bytes),
            engines=self.engine_pool.engine_reports(),
        )

    def _available_disk_bytes(self) -> int:
        """Bytes that further models may take: free disk less the reserve, within `--disk-limit`."""
        free = max(0, self._files.free_disk_bytes() - DISK_RESERVE_BYTES)
        if self._config.disk_limit_bytes is not None:
            free = min(free, max(0, self._config.disk_limit_bytes - self._files.disk_used_bytes()))
        return free

    def _report_replica(self, replica: Replica) -> None:
        if replica.state is S.GONE and self._replicas.get(replica.model_id) is replica:
            del self._replicas[replica.model_id]
        self._enqueue_message(replica.to_report())

    def _enqueue_message(self, message: NodeMessage) -> None:
        if self._outbox is not None:
            self._outbox.put_nowait(message)

    def on_engine_changed(self, report: EngineReport) -> None:
        replica = self._replicas.get(report.model_id)
        if replica is not None:
            replica.engine = None if report.state is EngineState.STOPPED else report
            self._report_replica(replica)

    # --- what it is told ----------------------------------------------------------------------------

    def _reconcile(self, desired_state: DesiredState) -> None:
        """Turn every replica to what the balancer wants of it now."""
        if desired_state.revision < self._revision:
            return  # overtaken on its way
        self._revision = desired_state.revision
        wanted = {model.model_id: model for model in desired_state.models}
        for model_id, model in wanted.items():
            replica = self._replicas.get(model_id)
            if replica is None or replica.state is S.GONE:  # gone, and it is just being noted
                replica = self._create_replica(
                    ReplicaRecord(
                        node_id=self.node_id, model_id=model_id, attempt=model.attempt, state=S.WANTED
                    )
                )
            if not model.is_same_download(replica.desired_model):
                replica.desired_model, replica.is_deleting = model, False
                self._replace_work(replica, partial(self._replica_worker.ensure_replica, replica, model))
            elif replica.desired_model != model:
                replica.desired_model = model
                self._replica_worker.on_sources_changed(replica)
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
        """End what is done with a replica now and do `work` instead; the lock keeps their order."""
        if replica.current_task is not None:
            replica.current_task.cancel()

        async def take_over() -> None:
            async with replica.files_lock:
                await work()

        replica.current_task = self._tasks.spawn(take_over(), f"replica.{replica.model_id}")

    def _create_replica(self, record: ReplicaRecord) -> Replica:
        replica = Replica(
            record, self._files.model_directory(record.model_id), self._persist, self._report_replica
        )
        self._replicas[record.model_id] = replica
        return replica

    async def _persist(self, record: ReplicaRecord) -> None:
        """Write it down, however long the disk does not take it: what was not stored must not be told."""
        pause_s = STORE_BACKOFF_INITIAL_S
        while True:
            try:
                async with self._db.write() as tx:
                    if record.state is S.GONE:
                        await store.remove(tx, record.node_id, record.model_id)
                    else:
                        await store.put(tx, record)
                return
            except sqlite3.Error as error:
                if (trouble := describe_sqlite_error(error)) is None:
                    raise
                log.error(
                    "that %s is %s cannot be noted: %s; it is tried again",
                    record.model_id,
                    record.state,
                    trouble,
                )
            await asyncio.sleep(pause_s)
            pause_s = min(STORE_BACKOFF_MAX_S, pause_s * 2)

    async def _persist_replica(self, replica: Replica) -> None:
        """Write down what a replica is by the time it is written: a record made before could undo a later one."""
        await self._persist(replica.to_record())

    # --- what it is used for ------------------------------------------------------------------------

    async def acquire_lease(self, model_id: str, *, deadline_s: float, keep_alive_s: float | None) -> Lease:
        """An engine with this model in memory, loaded if need be; release it after use.

        Raises `ModelFailed`, `ModelLoading`, `EngineFailed`, `InsufficientMemory`.
        """
        replica = self._replicas.get(model_id)
        if replica is None or replica.state is not S.READY:
            raise errors.ModelFailed(f"Model '{model_id}' is not on this node")
        replica.last_used = time.time()
        if replica.engine is None and not await self._replica_worker.check_files(replica):
            raise errors.ModelFailed.from_unusable_files(model_id, replica.error or "")
        try:
            return await self.engine_pool.acquire_lease(
                model_id, deadline_s=deadline_s, keep_alive_s=keep_alive_s
            )
        except errors.ModelFailed as refused:
            await self._replica_worker.mark_unusable(replica, refused.reason or refused.message)
            raise

    def _find_growing_file(self, model_id: str, sha256: str) -> GrowingFile | None:
        replica = self._replicas.get(model_id)
        return (
            replica.find_growing_file(sha256)
            if replica is not None and replica.desired_model is not None
            else None
        )

    async def load_model(self, model_id: str) -> None:
        """Have the model in memory, without a request for it. Raises as `lease` does."""
        async with await self.acquire_lease(model_id, deadline_s=LOAD_TIMEOUT_S, keep_alive_s=None):
            pass

    async def import_file(self, model_id: str, source: Path, spec: FileSpec) -> bool:
        """Put a file of this host in place as `spec`; False if it is not that file. Raises `InvalidRequest`."""
        cancelled = threading.Event()
        try:
            return await asyncio.to_thread(self._files.import_file, model_id, source, spec, cancelled)
        except OSError as error:
            raise errors.InvalidRequest(
                f"{source.name} cannot be read: {error.strerror}", param="path"
            ) from None
        finally:
            cancelled.set()

    async def unload_model(self, model_id: str) -> None:
        """Free a model's memory once its running requests have ended. Raises `ModelNotRegistered`."""
        if model_id not in self._replicas:
            raise errors.ModelNotRegistered(model_id)
        await self.engine_pool.unload(model_id)

    async def _store_last_used(self) -> None:
        used = {
            replica.model_id: replica.last_used
            for replica in self._replicas.values()
            if replica.last_used is not None
            and replica.last_used != self._stored_last_used.get(replica.model_id)
        }
        if used:
            async with self._db.write() as tx:
                await store.update_last_used(tx, self.node_id, used)
            self._stored_last_used |= used
