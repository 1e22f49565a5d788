"""Registrations: the models that the cluster holds, and the desired state of each node."""

from __future__ import annotations

import asyncio
import logging
import re
import sqlite3
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Literal

from msgspec import structs

from llb import errors, hub
from llb.base.backoff import Backoff
from llb.base.events import Topic
from llb.base.tasks import TaskSupervisor
from llb.cluster.download_settings import DownloadSettings
from llb.cluster.peer_sources import PeerSources
from llb.cluster.view import ClusterView
from llb.hub import HubClient
from llb.policy import placement
from llb.store.database import Database
from llb.store.sqlite_errors import describe_sqlite_error
from llb.store.tables import nodes
from llb.store.tables import registrations as store
from llb.store.tables.registrations import Registration, RegistrationState
from llb.texts.coded_text import CodedText
from llb.wire import (
    TEMPLATE_CAPABILITIES,
    BadSourceReport,
    DesiredModel,
    DesiredState,
    FileSpec,
    Hello,
    HubSource,
    Model,
    ModelStatus,
    Placement,
    RegisterReply,
    ReplicaReport,
    ReplicaState,
)

log = logging.getLogger(__name__)

BACKOFF_INITIAL_S = 1.0
BACKOFF_MAX_S = 300.0
# Delay between attempts to store the result of a background task, while the database cannot be written.
STORE_BACKOFF_INITIAL_S, STORE_BACKOFF_MAX_S = 0.5, 30.0
_COMMIT_PATTERN = re.compile(r"[0-9a-f]{40}")


class Registrations:
    """Owner of the registrations: stored in SQLite first, then changed in memory, then sent to the nodes."""

    def __init__(
        self,
        db: Database,
        hub_client: HubClient,
        view: ClusterView,
        peer_sources: PeerSources,
        *,
        cluster_id: str = "",
        downloads: DownloadSettings | None = None,
    ) -> None:
        self._db = db
        self._hub = hub_client
        self._view = view
        self._peer_sources = peer_sources
        self._downloads = DownloadSettings(db) if downloads is None else downloads
        self._registrations = view.registrations
        self._locks: dict[str, asyncio.Lock] = {}
        self._resolve_tasks: dict[str, asyncio.Task[None]] = {}
        # Nodes that have not reported their replicas since the start.
        self._unreported_nodes: set[str] = set()
        # Model id → nodes that were sent the model and have not reported it gone since.
        self._possible_holders: dict[str, set[str]] = {}
        self._tasks = TaskSupervisor("registrations")
        self._revision = 0
        self.cluster_id = cluster_id
        self.desired_state_changed: Topic[()] = Topic()

    async def start(self, cluster_id: str) -> None:
        """Load the stored registrations and resume resolving."""
        self.cluster_id = cluster_id
        self._revision = await store.get_revision(self._db)
        self._unreported_nodes = {node.id for node in await nodes.list_nodes(self._db)}
        for registration in await store.list_registrations(self._db):
            self._registrations[registration.model_id] = registration
            if registration.is_active and registration.resolved is None and registration.error is None:
                self._start_resolving(registration.model_id)

    async def close(self) -> None:
        await self._tasks.close()

    # --- requests of users --------------------------------------------------------------------------

    async def register(
        self,
        model_id: str,
        *,
        replicas: int | Literal["all"],
        created_by: str,
        placement: Placement | None = None,
    ) -> RegisterReply:
        """Register a model, or retry one that is in Error; returns before the Hub is queried.

        Raises `ModelNotSupported`, `AlreadyRegistered`, `InsufficientMemory`, `InsufficientStorage`.
        """
        model = self._view.get_model(model_id)
        if model is None:
            raise errors.ModelNotSupported(model_id)
        # Shielded: a cancelled caller must not leave the memory behind the database.
        return await self._tasks.run_shielded(
            self._register(model, replicas, created_by, placement), f"register.{model.id}"
        )

    async def _register(
        self,
        model: Model,
        replicas: int | Literal["all"],
        created_by: str,
        placement: Placement | None,
    ) -> RegisterReply:
        async with self._lock_of(model.id):
            self.check_not_registered(model.id)
            self.check_capacity(model)
            known = self._registrations.get(model.id)
            kept = known if known is not None and known.is_active else None
            await self._save(
                Registration(
                    model_id=model.id,
                    entry=model,
                    attempt=known.attempt + 1 if known else 1,
                    replicas=replicas,
                    # A retry resolves again: the repository may have been repaired since. The old pins are
                    # used if the Hub cannot be reached.
                    resolved=known.resolved if known else None,
                    pinned=kept is not None and kept.pinned,
                    options=kept.options if kept is not None else None,
                    placement=placement or (kept.placement if kept is not None else None),
                    created_at=time.time(),
                    created_by=created_by,
                )
            )
            self._start_resolving(model.id)
        return RegisterReply(
            model_id=model.id,
            status=ModelStatus.REGISTERED,
            message=f"Model '{model.id}' is {'being tried again' if kept is not None else 'registered'}; "
            "nodes fetch it by themselves",
        )

    async def delete(self, model_id: str) -> None:
        """Delete a model, which also cancels its download. Raises `ModelNotFound`, `ModelNotRegistered`."""
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

    async def change(self, model_id: str, **changes: Any) -> None:
        """Change `pinned`, `options` or `placement` of a registration. Raises `ModelNotRegistered`."""
        await self._tasks.run_shielded(self._change(model_id, changes), f"change.{model_id}")

    async def _change(self, model_id: str, changes: dict[str, Any]) -> None:
        async with self._lock_of(model_id):
            known = self._registrations.get(model_id)
            if known is None or not known.is_active:
                raise errors.ModelNotRegistered(model_id)
            changed = structs.replace(known, **changes)
            if changed != known:
                await self._save(changed)

    def check_not_registered(self, model_id: str) -> None:
        """Raises `AlreadyRegistered` if the model is registered and not in Error, where it may be retried."""
        known = self._registrations.get(model_id)
        if (
            known is not None
            and known.is_active
            and self._view.status_of(model_id).status is not ModelStatus.ERROR
        ):
            raise errors.AlreadyRegistered(model_id)

    async def known_files(self, model: Model) -> tuple[FileSpec, ...]:
        """The file specs pinned by the registration of `model`, else as `resolve_files`."""
        registered = self._registrations.get(model.id)
        pinned = registered.resolved if registered is not None else None
        return pinned if pinned is not None else await self.resolve_files(model)

    async def resolve_files(self, model: Model) -> tuple[FileSpec, ...]:
        """The file specs of `model`, from the Hub or, where it is unreachable, from the catalogue.

        Raises `HubUnavailable`, `InvalidRequest`.
        """
        try:
            return await self._fetch_file_specs(model)
        except hub.HubError as failure:
            is_unreachable = isinstance(failure, hub.HubUnreachable)
            if is_unreachable and (files := _file_specs_from_catalog(model)) is not None:
                return files
            message = CodedText(
                "files_not_found",
                "The files of model '{model}' cannot be looked up: {cause}",
                model=model.id,
                cause=failure.message,
            )
            raise (
                errors.HubUnavailable(message) if is_unreachable else errors.InvalidRequest(message)
            ) from None

    def check_capacity(self, model: Model) -> None:
        """Raises `InsufficientMemory` or `InsufficientStorage` if no online node could take the model."""
        capacities = self._view.node_capacities(model.id)
        best = placement.largest_node(capacities)
        if best is None:
            # No node is online yet: the registration waits for one.
            return
        if best.budget_bytes < model.required_memory_bytes:
            raise errors.InsufficientMemory(model.required_memory_bytes, best.budget_bytes)
        candidates = [node for node in capacities if node.budget_bytes >= model.required_memory_bytes]
        largest_disk = max(node.disk_free_bytes for node in candidates)
        if largest_disk < model.size_bytes and not any(node.has_files for node in candidates):
            raise errors.InsufficientStorage(model.size_bytes, largest_disk)

    # --- desired state ------------------------------------------------------------------------------

    def desired_state_of(self, node_id: str) -> DesiredState:
        """The complete desired state of one node, to be sent to it.

        The node is recorded as a possible holder of each model: a tombstone waits for its report.
        """
        desired_models = []
        in_order = sorted(self._registrations.items(), key=lambda item: self._downloads.rank_of(item[0]))
        for model_id, registration in in_order:
            assigned = self._view.assigned_nodes_of(model_id)
            if registration.resolved is None or node_id not in assigned:
                continue
            self._possible_holders.setdefault(model_id, set()).add(node_id)
            model = registration.entry
            desired_models.append(
                DesiredModel(
                    model_id=model_id,
                    attempt=registration.attempt,
                    files=registration.resolved,
                    required_memory_bytes=model.required_memory_bytes,
                    # A node of an earlier version would not understand the others.
                    capabilities=tuple(
                        name for name in model.capabilities if name not in TEMPLATE_CAPABILITIES
                    ),
                    context_length=model.context_length,
                    copies=self._peer_sources.sources_for(node_id, registration, assigned),
                    pinned=registration.pinned,
                    options=registration.options,
                    # The list in use decides, not the entry of the pull: both can be added and removed.
                    draft=(self._view.get_model(model_id) or model).draft,
                    speculation=(self._view.get_model(model_id) or model).speculation,
                )
            )
        return DesiredState(
            cluster_id=self.cluster_id,
            revision=self._revision,
            models=tuple(desired_models),
            deleted=tuple(
                model_id
                for model_id, known in self._registrations.items()
                if not known.is_active or self._view.is_banned(node_id, known)
            ),
            download_rate=self._downloads.rate_limit,
        )

    def on_replica_report(self, node_id: str, report: ReplicaReport) -> None:
        """Record a replica report; removes the tombstone of a model that no node holds any more."""
        if report.state is ReplicaState.GONE:
            self._possible_holders.get(report.model_id, set()).discard(node_id)
            self._schedule_tombstone_removal(report.model_id)
        if self._peer_sources.record_replica_report(node_id, report):
            self.desired_state_changed.publish()

    def on_bad_source(self, node_id: str, bad_source: BadSourceReport) -> None:
        """Record that a node received wrong bytes from another, which is not copied from for now."""
        if self._peer_sources.record_bad_source(node_id, bad_source):
            self.desired_state_changed.publish()

    def on_hello(self, hello: Hello) -> None:
        """Record the full replica list of a node; removes tombstones that waited only for it."""
        held_model_ids = {report.model_id for report in hello.replicas}
        for model_id, holders in self._possible_holders.items():
            if model_id not in held_model_ids:
                holders.discard(hello.node_id)
        self._mark_reported(hello.node_id)

    def on_node_removed(self, node_id: str) -> None:
        """Forget a removed node: tombstones no longer wait for it."""
        for holders in self._possible_holders.values():
            holders.discard(node_id)
        self._mark_reported(node_id)

    def _mark_reported(self, node_id: str) -> None:
        self._unreported_nodes.discard(node_id)
        for model_id in tuple(self._registrations):
            self._schedule_tombstone_removal(model_id)

    def _is_tombstone_removable(self, model_id: str) -> bool:
        """Whether the model is a tombstone and every node has reported that it holds none of its files.

        A node that was sent the model may have started on it before its first report.
        """
        known = self._registrations.get(model_id)
        is_tombstone = known is not None and not known.is_active
        all_reported = not self._unreported_nodes and not self._possible_holders.get(model_id)
        return is_tombstone and all_reported and not any(True for _ in self._view.replicas_of(model_id))

    def _schedule_tombstone_removal(self, model_id: str) -> None:
        if self._is_tombstone_removable(model_id):
            self._tasks.spawn(
                self._retry_until_stored(partial(self._remove_tombstone, model_id)),
                f"tombstone.{model_id}",
            )

    async def _remove_tombstone(self, model_id: str) -> None:
        async with self._lock_of(model_id):
            # The model may have been registered again while this task waited for the lock.
            if self._is_tombstone_removable(model_id):
                async with self._db.write(uses_ballast=True) as tx:
                    await store.remove(tx, model_id)
                    revision = await store.get_revision(tx)
                self._revision = revision
                del self._registrations[model_id]
                self._possible_holders.pop(model_id, None)
                self.desired_state_changed.publish()

    # --- resolving ----------------------------------------------------------------------------------

    def _start_resolving(self, model_id: str) -> None:
        self._stop_resolving(model_id)
        self._resolve_tasks[model_id] = self._tasks.spawn(self._resolve(model_id), f"resolve.{model_id}")

    def _stop_resolving(self, model_id: str) -> None:
        task = self._resolve_tasks.pop(model_id, None)
        if task is not None:
            task.cancel()
        self._view.waiting_reasons.pop(model_id, None)

    async def _resolve(self, model_id: str) -> None:
        """Pin commit, size and sha256 of every file, waiting for the network as long as necessary."""
        # Jitter: the nodes of a network that was repaired must not query the Hub at the same moment.
        backoff = Backoff(BACKOFF_INITIAL_S, BACKOFF_MAX_S, jitter=0.25)
        while True:
            registration = self._registrations[model_id]
            files: tuple[FileSpec, ...] | None
            error: str | None = None
            try:
                files = await self._fetch_file_specs(registration.entry)
            except hub.HubUnreachable as unreachable:
                files = registration.resolved or _file_specs_from_catalog(registration.entry)
                if files is None:
                    reason = CodedText(
                        "waiting_for_network", "waiting for the network: {cause}", cause=unreachable.message
                    )
                    if self._view.waiting_reasons.get(model_id) != reason:
                        log.warning("pull of %s: %s", model_id, reason)
                    self._view.waiting_reasons[model_id] = reason
                    self._view.publish_model_status(model_id)
                    delay_s = max(unreachable.retry_after_s or 0.0, backoff.next_delay_s())
                    await asyncio.sleep(min(delay_s, BACKOFF_MAX_S))
                    continue
            except hub.HubError as failure:
                files, error = registration.resolved, failure.message
            break
        await self._retry_until_stored(partial(self._finish_resolving, model_id, files, error))

    async def _finish_resolving(
        self, model_id: str, files: tuple[FileSpec, ...] | None, error: str | None
    ) -> None:
        async with self._lock_of(model_id):
            self._view.waiting_reasons.pop(model_id, None)
            registration = self._registrations[model_id]
            if registration.is_active:
                await self._save(structs.replace(registration, resolved=files, error=error))
            self._resolve_tasks.pop(model_id, None)

    @staticmethod
    async def _retry_until_stored(store_result: Callable[[], Awaitable[None]]) -> None:
        """Repeat a write of a background task, which no caller would repeat, until the database takes it.

        `store_result` takes the model's lock itself, so that a waiting task does not block its deletion.
        """
        backoff = Backoff(STORE_BACKOFF_INITIAL_S, STORE_BACKOFF_MAX_S)
        while True:
            try:
                return await store_result()
            except sqlite3.Error as error:
                if (trouble := describe_sqlite_error(error)) is None:
                    raise
                log.warning("a registration could not be stored: %s; trying again", trouble)
            await asyncio.sleep(backoff.next_delay_s())

    async def _fetch_file_specs(self, model: Model) -> tuple[FileSpec, ...]:
        """The files of `model` as the Hub has them now. Raises `HubError`."""
        found = await asyncio.gather(
            *(self._hub.resolve_file(model.repo, name, model.revision) for name in model.filenames)
        )
        first = found[0]
        if model.sha256 is not None and first.sha256 != model.sha256:
            raise hub.HubInvalidResponse(
                CodedText(
                    "hub_other_sha256",
                    "The file {file} on the Hub is not the file of the catalogue: its sha256 is {found}…, "
                    "the catalogue has {expected}…",
                    file=first.filename,
                    found=first.sha256[:12],
                    expected=model.sha256[:12],
                )
            )
        size_bytes = sum(file.size_bytes for file in found)
        if size_bytes != model.size_bytes:
            log.warning(
                "model %s has %d bytes on the Hub and %d in the catalogue; using the Hub's size",
                model.id,
                size_bytes,
                model.size_bytes,
            )
        return tuple(
            FileSpec(
                name=file.filename,
                size_bytes=file.size_bytes,
                sha256=file.sha256,
                sources=(HubSource(repo=file.repo, commit=file.commit),),
            )
            for file in found
        )

    # --- state --------------------------------------------------------------------------------------

    def _lock_of(self, model_id: str) -> asyncio.Lock:
        return self._locks.setdefault(model_id, asyncio.Lock())

    async def _save(self, registration: Registration) -> None:
        # A model must be deletable on a full disk.
        async with self._db.write(uses_ballast=not registration.is_active) as tx:
            await store.put(tx, registration)
            revision = await store.get_revision(tx)
        self._revision = revision
        self._registrations[registration.model_id] = registration
        self._view.on_registration_changed(registration.model_id)
        self.desired_state_changed.publish()


def _file_specs_from_catalog(model: Model) -> tuple[FileSpec, ...] | None:
    """The file spec of a catalogue entry that pins commit and sha256, so that no Hub is needed; else None."""
    if model.extra_filenames or model.sha256 is None or not _COMMIT_PATTERN.fullmatch(model.revision or ""):
        return None
    # Narrowed by the pattern above.
    assert model.revision is not None  # noqa: S101
    return (
        FileSpec(
            name=model.recommended_filename,
            size_bytes=model.size_bytes,
            sha256=model.sha256,
            sources=(HubSource(repo=model.repo, commit=model.revision),),
        ),
    )
