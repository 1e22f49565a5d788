"""Which models the cluster is to hold: register, resolve, retry, delete. The desired state and its one owner."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Callable
from typing import Literal

from msgspec import structs

from llb import errors, hub
from llb.cluster.copies import Copies
from llb.cluster.view import ClusterView
from llb.decide import placement
from llb.hub import Hub
from llb.store import nodes
from llb.store import registrations as store
from llb.store.database import Database
from llb.store.registrations import Registration, RegistrationState
from llb.tasks import TaskGroup
from llb.wire import (
    Blame,
    FileSpec,
    Hello,
    HubSource,
    Model,
    ModelStatus,
    RegisterReply,
    ReplicaReport,
    ReplicaState,
    Want,
    WantModel,
)

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 300.0
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Registrations:
    """Owns the registrations: in SQLite first, then in memory, then told to the nodes."""

    def __init__(
        self, db: Database, hub_: Hub, view: ClusterView, copies: Copies, *, cluster_id: str = ""
    ) -> None:
        self._db = db
        self._hub = hub_
        self._view = view
        self._copies = copies
        self._known: dict[str, Registration] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._resolvers: dict[str, asyncio.Task[None]] = {}
        self._unheard: set[str] = set()  # nodes that have not yet said what they hold
        self._told: dict[
            str, set[str]
        ] = {}  # model id → nodes told to hold it, which have not said since that they do not
        self._tasks = TaskGroup("registrations")
        self._revision = 0
        self.cluster_id = cluster_id
        self.on_want_changed: Callable[[], None] = lambda: None
        view.registrations = self._known
        view.placed = self.nodes_of

    async def start(self, cluster_id: str) -> None:
        """Load what is stored and go on resolving what was not resolved."""
        self.cluster_id = cluster_id
        self._revision = await store.revision(self._db)
        self._unheard = {node.id for node in await nodes.all_nodes(self._db)}
        for registration in await store.all_registrations(self._db):
            self._known[registration.model_id] = registration
            if registration.active and registration.resolved is None and registration.error is None:
                self._resolve_in_background(registration.model_id)

    async def close(self) -> None:
        await self._tasks.close()

    # --- what users wish ----------------------------------------------------------------------------

    async def register(self, model_id: str, *, replicas: int | Literal["all"], by: str) -> RegisterReply:
        """Wish that the cluster holds a model; in Error it is the retry. Answers without asking the Hub.

        Raises `ModelNotSupported`, `AlreadyRegistered`, `InsufficientMemory`, `InsufficientStorage`.
        """
        model = self._view.model(model_id)
        if model is None:
            raise errors.ModelNotSupported(model_id)
        # A caller that goes away in the middle must not leave the database and the memory of different minds.
        return await self._tasks.finish(self._register(model, replicas, by), f"register.{model.id}")

    async def _register(self, model: Model, replicas: int | Literal["all"], by: str) -> RegisterReply:
        async with self._lock(model.id):
            self.check_free(model.id)
            self.check_room(model)
            known = self._known.get(model.id)
            retry = known is not None and known.active
            await self._put(
                Registration(
                    model_id=model.id,
                    entry=model,
                    attempt=known.attempt + 1 if known else 1,
                    replicas=replicas,
                    # A retry resolves anew: the repository may have been mended since. The old pins serve
                    # again if the Hub cannot be asked.
                    resolved=known.resolved if known else None,
                    pinned=known is not None and known.active and known.pinned,
                    created_at=time.time(),
                    created_by=by,
                )
            )
            self._resolve_in_background(model.id)
        return RegisterReply(
            model_id=model.id,
            status=ModelStatus.REGISTERED,
            message=f"Model '{model.id}' is {'being tried again' if retry else 'registered'}; "
            "nodes fetch it by themselves",
        )

    async def delete(self, model_id: str) -> None:
        """No longer wish it: while it is fetched that is the cancel. Raises `ModelNotFound`, `ModelNotRegistered`."""
        model = self._view.model(model_id)
        if model is None:
            raise errors.ModelNotFound(model_id)
        await self._tasks.finish(self._delete(model.id), f"delete.{model.id}")

    async def _delete(self, model_id: str) -> None:
        async with self._lock(model_id):
            known = self._known.get(model_id)
            if known is None or not known.active:
                raise errors.ModelNotRegistered(model_id)
            self._stop_resolving(model_id)
            await self._put(structs.replace(known, state=RegistrationState.DELETING, error=None))
        self._forget_if_gone(model_id)

    async def set_pinned(self, model_id: str, pinned: bool) -> None:
        """Wish that the model's engines stay in memory, or no longer. Raises `ModelNotRegistered`."""
        await self._tasks.finish(self._set_pinned(model_id, pinned), f"pin.{model_id}")

    async def _set_pinned(self, model_id: str, pinned: bool) -> None:
        async with self._lock(model_id):
            known = self._known.get(model_id)
            if known is None or not known.active:
                raise errors.ModelNotRegistered(model_id)
            if known.pinned != pinned:
                await self._put(structs.replace(known, pinned=pinned))

    def check_free(self, model_id: str) -> None:
        """Raises `AlreadyRegistered` unless the model may be registered now: nobody did, or it is in Error."""
        known = self._known.get(model_id)
        if (
            known is not None
            and known.active
            and self._view.derived(model_id).status is not ModelStatus.ERROR
        ):
            raise errors.AlreadyRegistered(model_id)

    async def pins(self, model: Model) -> tuple[FileSpec, ...]:
        """What the files of `model` must be: the Hub's word, else the catalogue's. Raises `HubAway`, `InvalidRequest`."""
        try:
            return await self._facts_of(model)
        except hub.HubError as failure:
            away = isinstance(failure, hub.HubUnreachable)
            if away and (files := _pinned_by_catalogue(model)) is not None:
                return files
            message = f"The sha256 of model '{model.id}' cannot be learnt: {failure}"
            raise (errors.HubAway(message) if away else errors.InvalidRequest(message)) from None

    def check_room(self, model: Model) -> None:
        """Raises `InsufficientMemory` or `InsufficientStorage` if no online node could take the model."""
        rooms = self._view.rooms(model.id)
        best = placement.roomiest(rooms)
        if best is None:
            return  # no node is online yet: it waits for one
        if best.budget_bytes < model.required_memory_bytes:
            raise errors.InsufficientMemory(model.required_memory_bytes, best.budget_bytes)
        able = [room for room in rooms if room.budget_bytes >= model.required_memory_bytes]
        most_disk = max(room.disk_free_bytes for room in able)
        if most_disk < model.size_bytes and not any(room.holds for room in able):
            raise errors.InsufficientStorage(model.size_bytes, most_disk)

    # --- what nodes should hold ---------------------------------------------------------------------

    def nodes_of(self, model_id: str) -> frozenset[str]:
        """The ids of the nodes that are to hold this model, those that are away for a short time included."""
        registration = self._known.get(model_id)
        if registration is None or not registration.active:
            return frozenset()
        model = registration.entry
        size_bytes = sum(file.size_bytes for file in registration.resolved or ()) or model.size_bytes
        rooms = self._view.rooms(model_id)
        if registration.replicas == "all":
            return placement.place(model.required_memory_bytes, size_bytes, None, rooms)
        rooms += self._view.away(model_id)
        return placement.place(model.required_memory_bytes, size_bytes, registration.replicas, rooms)

    def want(self, node_id: str) -> Want:
        """The whole desired state of one node, to be sent to it: what it is told to hold, a tombstone remembers."""
        wanted = []
        for model_id, registration in self._known.items():
            if registration.resolved is None or node_id not in (placed := self.nodes_of(model_id)):
                continue
            self._told.setdefault(model_id, set()).add(node_id)
            model = registration.entry
            wanted.append(
                WantModel(
                    model_id=model_id,
                    attempt=registration.attempt,
                    files=registration.resolved,
                    required_memory_bytes=model.required_memory_bytes,
                    capabilities=model.capabilities,
                    context_length=model.context_length,
                    copies=self._copies.sources(node_id, registration, placed),
                    pinned=registration.pinned,
                )
            )
        return Want(
            cluster_id=self.cluster_id,
            revision=self._revision,
            models=tuple(wanted),
            deleted=tuple(model_id for model_id, known in self._known.items() if not known.active),
        )

    def replica_changed(self, node_id: str, report: ReplicaReport) -> None:
        """A node told of a replica; a tombstone that every node has obeyed is taken away."""
        if report.state is ReplicaState.GONE:
            self._told.get(report.model_id, set()).discard(node_id)
            self._forget_if_gone(report.model_id)
        if self._copies.heard(node_id, report):
            self.on_want_changed()

    def blamed(self, node_id: str, blame: Blame) -> None:
        """A node was sent wrong bytes by another, which nobody shall copy from for now."""
        if self._copies.blame(node_id, blame):
            self.on_want_changed()

    def node_heard(self, hello: Hello) -> None:
        """A node said all that it holds: tombstones that waited for nothing else are taken away."""
        held = {report.model_id for report in hello.replicas}
        for model_id, told in self._told.items():
            if model_id not in held:
                told.discard(hello.node_id)
        self._no_longer_unheard(hello.node_id)

    def node_removed(self, node_id: str) -> None:
        """A node no longer belongs here: tombstones do not wait for it."""
        for told in self._told.values():
            told.discard(node_id)
        self._no_longer_unheard(node_id)

    def _no_longer_unheard(self, node_id: str) -> None:
        self._unheard.discard(node_id)
        for model_id in tuple(self._known):
            self._forget_if_gone(model_id)

    def _is_gone(self, model_id: str) -> bool:
        """Whether it is a tombstone and no node has the model's files, as far as every node has said.

        A node that was told to hold the model may have begun before it says so: it is asked, too.
        """
        known = self._known.get(model_id)
        tombstone = known is not None and not known.active
        heard_of_all = not self._unheard and not self._told.get(model_id)
        return tombstone and heard_of_all and not any(True for _ in self._view.holders(model_id))

    def _forget_if_gone(self, model_id: str) -> None:
        if self._is_gone(model_id):
            self._tasks.supervise(self._forget(model_id), f"forget.{model_id}")

    async def _forget(self, model_id: str) -> None:
        async with self._lock(model_id):
            # It may have been registered again while this waited for the lock.
            if self._is_gone(model_id):
                async with self._db.write() as tx:
                    await store.remove(tx, model_id)
                    self._revision = await store.revision(tx)
                del self._known[model_id]
                self._told.pop(model_id, None)
                self.on_want_changed()

    # --- resolving: what exactly the nodes are to fetch ---------------------------------------------

    def _resolve_in_background(self, model_id: str) -> None:
        self._stop_resolving(model_id)
        self._resolvers[model_id] = self._tasks.supervise(self._resolve(model_id), f"resolve.{model_id}")

    def _stop_resolving(self, model_id: str) -> None:
        task = self._resolvers.pop(model_id, None)
        if task is not None:
            task.cancel()
        self._view.waiting.pop(model_id, None)

    async def _resolve(self, model_id: str) -> None:
        """Pin commit, size and sha256 of every file; waits for the network as long as it takes."""
        pause_s = FIRST_PAUSE_S
        while True:
            registration = self._known[model_id]
            files: tuple[FileSpec, ...] | None
            error: str | None = None
            try:
                files = await self._facts_of(registration.entry)
            except hub.HubUnreachable as unreachable:
                files = registration.resolved or _pinned_by_catalogue(registration.entry)
                if files is None:
                    self._view.waiting[model_id] = f"waiting for the network: {unreachable}"
                    self._view.refresh(model_id)
                    wait_s = max(unreachable.retry_after_s or 0.0, pause_s * random.uniform(0.75, 1.25))  # noqa: S311  # nodes must not ask in step
                    await asyncio.sleep(min(wait_s, LONGEST_PAUSE_S))
                    pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
                    continue
            except hub.HubError as failure:
                files, error = registration.resolved, str(failure)
            break
        async with self._lock(model_id):
            self._view.waiting.pop(model_id, None)
            self._resolvers.pop(model_id, None)
            registration = self._known[model_id]
            if registration.active:
                await self._put(structs.replace(registration, resolved=files, error=error))

    async def _facts_of(self, model: Model) -> tuple[FileSpec, ...]:
        """The files of `model` as the Hub has them now. Raises `HubError`."""
        facts = await asyncio.gather(
            *(self._hub.resolve(model.repo, name, model.revision) for name in model.filenames)
        )
        first = facts[0]
        if model.sha256 is not None and first.sha256 != model.sha256:
            raise hub.HubBadAnswer(
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

    def _lock(self, model_id: str) -> asyncio.Lock:
        return self._locks.setdefault(model_id, asyncio.Lock())

    async def _put(self, registration: Registration) -> None:
        async with self._db.write() as tx:
            await store.put(tx, registration)
            self._revision = await store.revision(tx)
        self._known[registration.model_id] = registration
        self._view.registration_changed(registration.model_id)
        self.on_want_changed()


def _pinned_by_catalogue(model: Model) -> tuple[FileSpec, ...] | None:
    """The file as the catalogue itself pins it, if it does so completely: then no Hub is needed to begin."""
    if model.extra_filenames or model.sha256 is None or not _COMMIT.fullmatch(model.revision or ""):
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
