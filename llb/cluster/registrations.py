"""Which models the cluster is to hold: register, resolve, retry, delete. The desired state and its one owner."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from typing import Literal

from msgspec import structs

from llb import errors, hub
from llb.base.events import Topic
from llb.base.tasks import TaskSupervisor
from llb.cluster.peer_sources import PeerSources
from llb.cluster.view import ClusterView
from llb.hub import HubClient
from llb.policy import placement
from llb.store.database import Database
from llb.store.tables import nodes
from llb.store.tables import registrations as store
from llb.store.tables.registrations import Registration, RegistrationState
from llb.wire import (
    BadSourceReport,
    DesiredModel,
    DesiredState,
    FileSpec,
    Hello,
    HubSource,
    Model,
    ModelStatus,
    RegisterReply,
    ReplicaReport,
    ReplicaState,
)

log = logging.getLogger(__name__)

BACKOFF_INITIAL_S = 1.0
BACKOFF_MAX_S = 300.0
_COMMIT_PATTERN = re.compile(r"[0-9a-f]{40}")


class Registrations:
    """Owns the registrations: in SQLite first, then in memory, then told to the nodes."""

    def __init__(
        self,
        db: Database,
        hub_client: HubClient,
        view: ClusterView,
        peer_sources: PeerSources,
        *,
        cluster_id: str = "",
    ) -> None:
        self._db = db
        self._hub = hub_client
        self._view = view
        self._peer_sources = peer_sources
        self._registrations = view.registrations
        self._locks: dict[str, asyncio.Lock] = {}
        self._resolve_tasks: dict[str, asyncio.Task[None]] = {}
        self._unreported_nodes: set[str] = set()  # nodes that have not yet said what they hold
        self._possible_holders: dict[
            str, set[str]
        ] = {}  # model id → nodes told to hold it, which have not said since that they do not
        self._tasks = TaskSupervisor("registrations")
        self._revision = 0
        self.cluster_id = cluster_id
        self.desired_state_changed: Topic[()] = Topic()

    async def start(self, cluster_id: str) -> None:
        """Load what is stored and go on resolving what was not resolved."""
        self.cluster_id = cluster_id
        self._revision = await store.get_revision(self._db)
        self._unreported_nodes = {node.id for node in await nodes.list_nodes(self._db)}
        for registration in await store.list_registrations(self._db):
            self._registrations[registration.model_id] = registration
            if registration.is_active and registration.resolved is None and registration.error is None:
                self._start_resolving(registration.model_id)

    async def close(self) -> None:
        await self._tasks.close()

    # --- what users wish ----------------------------------------------------------------------------

    async def register(
        self, model_id: str, *, replicas: int | Literal["all"], created_by: str
    ) -> RegisterReply:
        """Wish that the cluster holds a model; in Error it is the retry. Answers without asking the Hub.

        Raises `ModelNotSupported`, `AlreadyRegistered`, `InsufficientMemory`, `InsufficientStorage`.
        """
        model = self._view.get_model(model_id)
        if model is None:
            raise errors.ModelNotSupported(model_id)
        # A caller that goes away in the middle must not leave the database and the memory of different minds.
        return await self._tasks.run_shielded(
            self._register(model, replicas, created_by), f"register.{model.id}"
        )

    async def _register(self, model: Model, replicas: int | Literal["all"], created_by: str) -> RegisterReply:
        async with self._lock_of(model.id):
            self.check_not_registered(model.id)
            self.check_capacity(model)
            known = self._registrations.get(model.id)
            retry = known is not None and known.is_active
            await self._save(
                Registration(
                    model_id=model.id,
                    entry=model,
                    attempt=known.attempt + 1 if known else 1,
                    replicas=replicas,
                    # A retry resolves anew: the repository may have been mended since. The old pins serve
                    # again if the Hub cannot be asked.
                    resolved=known.resolved if known else None,
                    pinned=known is not None and known.is_active and known.pinned,
                    created_at=time.time(),
                    created_by=created_by,
                )
            )
            self._start_resolving(model.id)
        return RegisterReply(
            model_id=model.id,
            status=ModelStatus.REGISTERED,
            message=f"Model '{model.id}' is {'being tried again' if retry else 'registered'}; "
            "nodes fetch it by themselves",
        )

    async def delete(self, model_id: str) -> None:
        """No longer wish it: while it is fetched that is the cancel. Raises `ModelNotFound`, `ModelNotRegistered`."""
        model = self._view.get_model(model_id)
        if model is None:
            raise errors.ModelNotFound(model_id)
        await self._tasks.run_shielded(self._delete(model.id), f"delete.{model.id}")

    async def _delete(self, model_id: str) -> None:
        async with self._lock_of(model_id):
            known = self._registrations.get(model_id)
            if known is None or not known.is_active:
                raise errors.ModelNotRegistered(model_id)
            self._stop_resolving(model_id)
            await self._save(structs.replace(known, state=RegistrationState.DELETING, error=None))
        self._schedule_tombstone_removal(model_id)

    async def set_pinned(self, model_id: str, pinned: bool) -> None:
        """Wish that the model's engines stay in memory, or no longer. Raises `ModelNotRegistered`."""
        await self._tasks.run_shielded(self._set_pinned(model_id, pinned), f"pin.{model_id}")

    async def _set_pinned(self, model_id: str, pinned: bool) -> None:
        async with self._lock_of(model_id):
            known = self._registrations.get(model_id)
            if known is None or not known.is_active:
                raise errors.ModelNotRegistered(model_id)
            if known.pinned != pinned:
                await self._save(structs.replace(known, pinned=pinned))

    def check_not_registered(self, model_id: str) -> None:
        """Raises `AlreadyRegistered` unless the model may be registered now: nobody did, or it is in Error."""
        known = self._registrations.get(model_id)
        if (
            known is not None
            and known.is_active
            and self._view.status_of(model_id).status is not ModelStatus.ERROR
        ):
            raise errors.AlreadyRegistered(model_id)

    async def resolve_files(self, model: Model) -> tuple[FileSpec, ...]:
        """What the files of `model` must be: the Hub's word, else the catalogue's. Raises `HubAway`, `InvalidRequest`."""
        try:
            return await self._fetch_file_specs(model)
        except hub.HubError as failure:
            away = isinstance(failure, hub.HubUnreachable)
            if away and (files := _file_specs_from_catalog(model)) is not None:
                return files
            message = f"The sha256 of model '{model.id}' cannot be learnt: {failure}"
            raise (errors.HubUnavailable(message) if away else errors.InvalidRequest(message)) from None

    def check_capacity(self, model: Model) -> None:
        """Raises `InsufficientMemory` or `InsufficientStorage` if no online node could take the model."""
        rooms = self._view.node_capacities(model.id)
        best = placement.largest_node(rooms)
        if best is None:
            return  # no node is online yet: it waits for one
        if best.budget_bytes < model.required_memory_bytes:
            raise errors.InsufficientMemory(model.required_memory_bytes, best.budget_bytes)
        able = [room for room in rooms if room.budget_bytes >= model.required_memory_bytes]
        most_disk = max(room.disk_free_bytes for room in able)
        if most_disk < model.size_bytes and not any(room.has_files for room in able):
            raise errors.InsufficientStorage(model.size_bytes, most_disk)

    # --- what nodes should hold ---------------------------------------------------------------------

    def desired_state_of(self, node_id: str) -> DesiredState:
        """The whole desired state of one node, to be sent to it: what it is told to hold, a tombstone remembers."""
        wanted = []
        for model_id, registration in self._registrations.items():
            if registration.resolved is None or node_id not in (
                placed := self._view.assigned_nodes_of(model_id)
            ):
                continue
            self._possible_holders.setdefault(model_id, set()).add(node_id)
            model = registration.entry
            wanted.append(
                DesiredModel(
                    model_id=model_id,
                    attempt=registration.attempt,
                    files=registration.resolved,
                    required_memory_bytes=model.required_memory_bytes,
                    capabilities=model.capabilities,
                    context_length=model.context_length,
                    copies=self._peer_sources.sources_for(node_id, registration, placed),
                    pinned=registration.pinned,
                )
            )
        return DesiredState(
            cluster_id=self.cluster_id,
            revision=self._revision,
            models=tuple(wanted),
            deleted=tuple(model_id for model_id, known in self._registrations.items() if not known.is_active),
        )

    def on_replica_report(self, node_id: str, report: ReplicaReport) -> None:
        """A node told of a replica; a tombstone that every node has obeyed is taken away."""
        if report.state is ReplicaState.GONE:
            self._possible_holders.get(report.model_id, set()).discard(node_id)
            self._schedule_tombstone_removal(report.model_id)
        if self._peer_sources.record_replica_report(node_id, report):
            self.desired_state_changed.publish()

    def on_bad_source(self, node_id: str, bad_source: BadSourceReport) -> None:
        """A node was sent wrong bytes by another, which nobody shall copy from for now."""
        if self._peer_sources.record_bad_source(node_id, bad_source):
            self.desired_state_changed.publish()

    def on_hello(self, hello: Hello) -> None:
        """A node said all that it holds: tombstones that waited for nothing else are taken away."""
        held = {report.model_id for report in hello.replicas}
        for model_id, told in self._possible_holders.items():
            if model_id not in held:
                told.discard(hello.node_id)
        self._mark_reported(hello.node_id)

    def on_node_removed(self, node_id: str) -> None:
        """A node no longer belongs here: tombstones do not wait for it."""
        for told in self._possible_holders.values():
            told.discard(node_id)
        self._mark_reported(node_id)

    def _mark_reported(self, node_id: str) -> None:
        self._unreported_nodes.discard(node_id)
        for model_id in tuple(self._registrations):
            self._schedule_tombstone_removal(model_id)

    def _is_tombstone_removable(self, model_id: str) -> bool:
        """Whether it is a tombstone and no node has the model's files, as far as every node has said.

        A node that was told to hold the model may have begun before it says so: it is asked, too.
        """
        known = self._registrations.get(model_id)
        tombstone = known is not None and not known.is_active
        heard_of_all = not self._unreported_nodes and not self._possible_holders.get(model_id)
        return tombstone and heard_of_all and not any(True for _ in self._view.replicas_of(model_id))

    def _schedule_tombstone_removal(self, model_id: str) -> None:
        if self._is_tombstone_removable(model_id):
            self._tasks.spawn(self._remove_tombstone(model_id), f"forget.{model_id}")

    async def _remove_tombstone(self, model_id: str) -> None:
        async with self._lock_of(model_id):
            # It may have been registered again while this waited for the lock.
            if self._is_tombstone_removable(model_id):
                async with self._db.write() as tx:
                    await store.remove(tx, model_id)
                    self._revision = await store.get_revision(tx)
                del self._registrations[model_id]
                self._possible_holders.pop(model_id, None)
                self.desired_state_changed.publish()

    # --- resolving: what exactly the nodes are to fetch ---------------------------------------------

    def _start_resolving(self, model_id: str) -> None:
        self._stop_resolving(model_id)
        self._resolve_tasks[model_id] = self._tasks.spawn(self._resolve(model_id), f"resolve.{model_id}")

    def _stop_resolving(self, model_id: str) -> None:
        task = self._resolve_tasks.pop(model_id, None)
        if task is not None:
            task.cancel()
        self._view.waiting_reasons.pop(model_id, None)

    async def _resolve(self, model_id: str) -> None:
        """Pin commit, size and sha256 of every file; waits for the network as long as it takes."""
        pause_s = BACKOFF_INITIAL_S
        while True:
            registration = self._registrations[model_id]
            files: tuple[FileSpec, ...] | None
            error: str | None = None
            try:
                files = await self._fetch_file_specs(registration.entry)
            except hub.HubUnreachable as unreachable:
                files = registration.resolved or _file_specs_from_catalog(registration.entry)
                if files is None:
                    self._view.waiting_reasons[model_id] = f"waiting for the network: {unreachable}"
                    self._view.publish_model_status(model_id)
                    wait_s = max(unreachable.retry_after_s or 0.0, pause_s * random.uniform(0.75, 1.25))  # noqa: S311  # nodes must not ask in step
                    await asyncio.sleep(min(wait_s, BACKOFF_MAX_S))
                    pause_s = min(pause_s * 2, BACKOFF_MAX_S)
                    continue
            except hub.HubError as failure:
                files, error = registration.resolved, str(failure)
            break
        async with self._lock_of(model_id):
            self._view.waiting_reasons.pop(model_id, None)
            self._resolve_tasks.pop(model_id, None)
            registration = self._registrations[model_id]
            if registration.is_active:
                await self._save(structs.replace(registration, resolved=files, error=error))

    async def _fetch_file_specs(self, model: Model) -> tuple[FileSpec, ...]:
        """The files of `model` as the Hub has them now. Raises `HubError`."""
        facts = await asyncio.gather(
            *(self._hub.resolve_file(model.repo, name, model.revision) for name in model.filenames)
        )
        first = facts[0]
        if model.sha256 is not None and first.sha256 != model.sha256:
            raise hub.HubInvalidResponse(
                f"The file {first.filename} on the Hub is not the one of the catalogue: its sha256 is "
                f"{first.sha256[:12]}…, the catalogue says {model.sha256[:12]}…"
            )
        size_bytes = sum(fact.size_bytes for fact in facts)
        if size_bytes != model.size_bytes:
            log.warning(
                "model %s has %d bytes on the Hub, %d in the catalogue; the Hub's is used",
                model.id,
                size_bytes,
                model.size_bytes,
            )
        return tuple(
            FileSpec(
                name=fact.filename,
                size_bytes=fact.size_bytes,
                sha256=fact.sha256,
                sources=(HubSource(repo=fact.repo, commit=fact.commit),),
            )
            for fact in facts
        )

    # --- state --------------------------------------------------------------------------------------

    def _lock_of(self, model_id: str) -> asyncio.Lock:
        return self._locks.setdefault(model_id, asyncio.Lock())

    async def _save(self, registration: Registration) -> None:
        async with self._db.write() as tx:
            await store.put(tx, registration)
            self._revision = await store.get_revision(tx)
        self._registrations[registration.model_id] = registration
        self._view.on_registration_changed(registration.model_id)
        self.desired_state_changed.publish()


def _file_specs_from_catalog(model: Model) -> tuple[FileSpec, ...] | None:
    """The file as the catalogue itself pins it, if it does so completely: then no Hub is needed to begin."""
    if model.extra_filenames or model.sha256 is None or not _COMMIT_PATTERN.fullmatch(model.revision or ""):
        return None
    assert model.revision is not None  # noqa: S101  # fullmatch above
    return (
        FileSpec(
            name=model.recommended_filename,
            size_bytes=model.size_bytes,
            sha256=model.sha256,
            sources=(HubSource(repo=model.repo, commit=model.revision),),
        ),
    )
