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
from llb.config import Config
from llb.engine.pool import EnginePool, Lease
from llb.hardware import Facts, Machine
from llb.hub import Hub
from llb.node.files import ModelFiles
from llb.node.keeper import DISK_RESERVE_BYTES, Keeper
from llb.node.offers import Offers
from llb.node.peers import Peers
from llb.node.replica import Replica
from llb.node.shared import SharedFile
from llb.node.timing import Timing
from llb.store import replicas as store
from llb.store.database import Database
from llb.store.replicas import ReplicaRecord
from llb.store.trouble import trouble_of
from llb.tasks import TaskGroup
from llb.wire import (
    PROTOCOL_VERSION,
    Dial,
    Drain,
    EngineReport,
    EngineState,
    FileSpec,
    Heartbeat,
    Hello,
    LinkClosed,
    NodeLink,
    NodeMessage,
    Refused,
    ReplicaState,
    Want,
    Welcome,
)

log = logging.getLogger(__name__)

HEARTBEAT_S = 5.0
LOAD_TIMEOUT_S = 300.0  # a large model from a slow disk
CLOCKS_APART_S = 60.0
SWEEP_S = 3600.0
# Between two attempts at noting what a replica is, where the disk does not take it.
STORE_AGAIN_FIRST_S, STORE_AGAIN_S = 0.5, 30.0
PARTIAL_KEEP_S = 7 * 86_400.0
S = ReplicaState


class NodeAgent:
    """Owns the replicas of this host. `run(link)` serves one link; replicas live on between links."""

    def __init__(
        self,
        *,
        config: Config,
        db: Database,
        hub: Hub,
        files: ModelFiles,
        machine: Machine,
        pool: EnginePool,
        timing: Timing | None = None,
    ) -> None:
        self.node_id = ""  # told at the start: it is kept in the database
        self.addresses: Callable[[], tuple[str, ...]] = (
            tuple  # base URLs where this node believes to be reached
        )
        self.on_welcome: Callable[[Welcome], None] = lambda _welcome: None
        self.on_dial: Callable[[int], None] = lambda _spares: None  # the balancer cannot dial this node
        self.pool = pool
        self._config = config
        self._db = db
        self._files = files
        self._machine = machine
        self.balancer_url = ""  # where a joined host dials its balancer,
        self.balancer_anchor = ""  # and by what it believes it over TLS
        self.anchor = ""  # by what this node is believed
        self._keeper = Keeper(
            hub,
            files,
            pool,
            Peers(lambda: (self.balancer_url, self.balancer_anchor)),
            max_downloads=config.max_downloads,
            download_rate=config.download_rate,
            wanted=self._wanted,
            announce=self._announce,
            blame=self._say,
            timing=timing,
            lent=config.join is not None,
        )
        self.offers = Offers(self._shared)
        self._replicas: dict[str, Replica] = {}
        self._instance = secrets.token_hex(8)
        self._revision = -1
        self._last_used: dict[str, float] = {}  # as it is stored
        self._tasks = TaskGroup("agent")
        self.joined = asyncio.Event()  # a balancer has said what it wants: what lies here is being served
        self._outbox: asyncio.Queue[NodeMessage] | None = None
        self._facts: Facts | None = None
        pool.on_change = self._engine_changed

    # --- life ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load what this node held when it last ran, and look whether it is still so."""
        for record in await store.all_of_node(self._db, self.node_id):
            replica = self._take_up(record)
            if replica.state is S.READY:
                await self._keeper.check(replica)
        self._tasks.supervise(self._sweep(), "sweep")

    async def close(self) -> None:
        """Stop downloads and engines; what has arrived stays where it is."""
        await self._tasks.close()
        try:
            await self._store_last_used()
        finally:
            self.offers.close()
            self._keeper.close()
            await self.pool.close()
            self._machine.close()

    async def run(self, link: NodeLink) -> None:
        """Speak with the balancer over `link` until it ends."""
        if self._facts is None:
            self._facts = await self._machine.probe()
            self.pool.set_budget(self._facts.budget(self._config.memory_limit_bytes))
        self._outbox = asyncio.Queue()
        self._revision = -1  # messages overtake each other on different links only
        try:
            # Right behind the hello: what a node has room for is not known before.
            heartbeat = await self._heartbeat(self._facts)
            await link.send(self._hello(self._facts))
            await link.send(heartbeat)
            async with asyncio.TaskGroup() as both_ways:
                both_ways.create_task(self._speak(link, self._outbox), name="agent.speak")
                both_ways.create_task(self._beat(link, self._facts), name="agent.beat")
                both_ways.create_task(self._listen(link), name="agent.listen")
        except* LinkClosed:
            pass
        finally:
            self._outbox = None
            await link.close()

    async def _speak(self, link: NodeLink, outbox: asyncio.Queue[NodeMessage]) -> None:
        while True:
            await link.send(await outbox.get())

    async def _beat(self, link: NodeLink, facts: Facts) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            for replica in list(self._replicas.values()):
                if replica.state is S.READY and not replica.lock.locked():
                    await self._keeper.check(replica)
            await self._store_last_used()
            await link.send(await self._heartbeat(facts))

    async def _listen(self, link: NodeLink) -> None:
        while True:
            message = await link.receive()
            match message:
                case Want():
                    self.joined.set()
                    self._reconcile(message)
                case Welcome():
                    self._compare_clocks(message)
                    self.on_welcome(message)
                case Dial():
                    self.on_dial(message.spares)
                case Drain() | Refused():
                    pass  # the balancer alone decides what a draining node is asked; the link says who refused it

    @staticmethod
    def _compare_clocks(welcome: Welcome) -> None:
        apart_s = abs(time.time() - welcome.time)
        if welcome.time and apart_s > CLOCKS_APART_S:
            log.warning(
                "the clocks of this host and of its balancer are %.0f s apart: set both by the network (NTP), or "
                "copies between nodes may be refused",
                apart_s,
            )

    async def _sweep(self) -> None:
        """Partials that nobody came back for are removed after a week."""
        while True:
            try:
                await asyncio.to_thread(self._files.sweep_partials, PARTIAL_KEEP_S, self._wanted())
            except OSError as error:
                log.warning("old partial downloads were not removed: %s", error)
            await asyncio.sleep(SWEEP_S)

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with this host, as sentences; empty until it was looked at."""
        return self._facts.problems if self._facts is not None else ()

    def _wanted(self) -> frozenset[str]:
        return frozenset(replica.model_id for replica in self._replicas.values() if replica.want is not None)

    # --- what it says -------------------------------------------------------------------------------

    def _hello(self, facts: Facts) -> Hello:
        budget = facts.budget(self._config.memory_limit_bytes)
        return Hello(
            protocol=PROTOCOL_VERSION,
            node_id=self.node_id,
            name=self._config.name,
            version=__version__,
            platform=platform.platform(terse=True),
            addresses=self.addresses(),
            anchor=self.anchor,
            hardware=facts.hardware,
            memory_budget_bytes=budget.total_bytes,
            vram_budget_bytes=sum(budget.vram_bytes),
            max_downloads=self._config.max_downloads,
            slots_per_engine=self._config.parallel,
            replicas=tuple(replica.report() for replica in self._replicas.values()),
            instance=self._instance,
        )

    async def _heartbeat(self, facts: Facts) -> Heartbeat:
        return Heartbeat(
            hardware=self._machine.hardware or facts.hardware,
            meters=await self._machine.meters(),
            memory_used_bytes=self.pool.memory_used_bytes,
            disk_free_bytes=await asyncio.to_thread(self._disk_offered_bytes),
            engines=self.pool.reports(),
        )

    def _disk_offered_bytes(self) -> int:
        """Bytes that further models may take: free disk less the reserve, within `--disk-limit`."""
        free = max(0, self._files.free_bytes() - DISK_RESERVE_BYTES)
        if self._config.disk_limit_bytes is not None:
            free = min(free, max(0, self._config.disk_limit_bytes - self._files.disk_used_bytes()))
        return free

    def _announce(self, replica: Replica) -> None:
        if replica.state is S.GONE and self._replicas.get(replica.model_id) is replica:
            del self._replicas[replica.model_id]
        self._say(replica.report())

    def _say(self, message: NodeMessage) -> None:
        if self._outbox is not None:
            self._outbox.put_nowait(message)

    def _engine_changed(self, report: EngineReport) -> None:
        replica = self._replicas.get(report.model_id)
        if replica is not None:
            replica.engine = None if report.state is EngineState.STOPPED else report
            self._announce(replica)

    # --- what it is told ----------------------------------------------------------------------------

    def _reconcile(self, want: Want) -> None:
        """Turn every replica to what the balancer wants of it now."""
        if want.revision < self._revision:
            return  # overtaken on its way
        self._revision = want.revision
        wanted = {model.model_id: model for model in want.models}
        for model_id, model in wanted.items():
            replica = self._replicas.get(model_id)
            if replica is None or replica.state is S.GONE:  # gone, and it is just being noted
                replica = self._take_up(
                    ReplicaRecord(
                        node_id=self.node_id, model_id=model_id, attempt=model.attempt, state=S.WANTED
                    )
                )
            if not model.same_work(replica.want):
                replica.want, replica.leaving = model, False
                self._turn(replica, partial(self._keeper.hold, replica, model))
            elif replica.want != model:
                replica.want = model
                self._keeper.look_again(replica)
            if model.pinned is not None and model.pinned != replica.pinned:
                replica.pinned = model.pinned
                self.pool.pin(model_id, model.pinned)
                self._tasks.supervise(self._note(replica), f"pin.{model_id}")
        for model_id in set(self._replicas) - set(wanted):
            replica = self._replicas[model_id]
            if model_id in want.deleted:
                if not replica.leaving or replica.task is None or replica.task.done():
                    replica.leaving = True
                    self._turn(replica, partial(self._keeper.drop, replica))
            elif replica.want is not None:
                self._turn(replica, partial(self._keeper.rest, replica))
            replica.want = None

    def _turn(self, replica: Replica, work: Callable[[], Coroutine[None, None, None]]) -> None:
        """End what is done with a replica now and do `work` instead; the lock keeps their order."""
        if replica.task is not None:
            replica.task.cancel()

        async def take_over() -> None:
            async with replica.lock:
                await work()

        replica.task = self._tasks.supervise(take_over(), f"replica.{replica.model_id}")

    def _take_up(self, record: ReplicaRecord) -> Replica:
        replica = Replica(record, self._files.directory(record.model_id), self._persist, self._announce)
        self._replicas[record.model_id] = replica
        return replica

    async def _persist(self, record: ReplicaRecord) -> None:
        """Write it down, however long the disk does not take it: what was not stored must not be told."""
        pause_s = STORE_AGAIN_FIRST_S
        while True:
            try:
                async with self._db.write() as tx:
                    if record.state is S.GONE:
                        await store.remove(tx, record.node_id, record.model_id)
                    else:
                        await store.put(tx, record)
                return
            except sqlite3.Error as error:
                if (trouble := trouble_of(error)) is None:
                    raise
                log.error(
                    "that %s is %s cannot be noted: %s; it is tried again",
                    record.model_id,
                    record.state,
                    trouble,
                )
            await asyncio.sleep(pause_s)
            pause_s = min(STORE_AGAIN_S, pause_s * 2)

    async def _note(self, replica: Replica) -> None:
        """Write down what a replica is by the time it is written: a record made before could undo a later one."""
        await self._persist(replica.record())

    # --- what it is used for ------------------------------------------------------------------------

    async def lease(self, model_id: str, *, deadline_s: float, keep_alive_s: float | None) -> Lease:
        """An engine with this model in memory, loaded if need be; release it after use.

        Raises `ModelFailed`, `ModelLoading`, `EngineFailed`, `InsufficientMemory`.
        """
        replica = self._replicas.get(model_id)
        if replica is None or replica.state is not S.READY:
            raise errors.ModelFailed(f"Model '{model_id}' is not on this node")
        replica.last_used = time.time()
        if replica.engine is None and not await self._keeper.check(replica):
            raise errors.ModelFailed.unusable(model_id, replica.error or "")
        try:
            return await self.pool.lease(model_id, deadline_s=deadline_s, keep_alive_s=keep_alive_s)
        except errors.ModelFailed as refused:
            await self._keeper.refuse(replica, refused.reason or refused.message)
            raise

    def _shared(self, model_id: str, sha256: str) -> SharedFile | None:
        replica = self._replicas.get(model_id)
        return replica.shared(sha256) if replica is not None and replica.want is not None else None

    async def load(self, model_id: str) -> None:
        """Have the model in memory, without a request for it. Raises as `lease` does."""
        async with await self.lease(model_id, deadline_s=LOAD_TIMEOUT_S, keep_alive_s=None):
            pass

    async def adopt(self, model_id: str, source: Path, spec: FileSpec) -> bool:
        """Put a file of this host in place as `spec`; False if it is not that file. Raises `InvalidRequest`."""
        cancelled = threading.Event()
        try:
            return await asyncio.to_thread(self._files.adopt, model_id, source, spec, cancelled)
        except OSError as error:
            raise errors.InvalidRequest(
                f"{source.name} cannot be read: {error.strerror}", param="path"
            ) from None
        finally:
            cancelled.set()

    async def unload(self, model_id: str) -> None:
        """Free a model's memory once its running requests have ended. Raises `ModelNotRegistered`."""
        if model_id not in self._replicas:
            raise errors.ModelNotRegistered(model_id)
        await self.pool.unload(model_id)

    async def _store_last_used(self) -> None:
        used = {
            replica.model_id: replica.last_used
            for replica in self._replicas.values()
            if replica.last_used is not None and replica.last_used != self._last_used.get(replica.model_id)
        }
        if used:
            async with self._db.write() as tx:
                await store.touch(tx, self.node_id, used)
            self._last_used |= used
