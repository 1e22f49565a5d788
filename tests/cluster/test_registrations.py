"""Registrations: what is refused, resolving with and without the Hub, desired states and tombstones."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from llb import errors
from llb.base.events import EventBus
from llb.catalog import load_catalog
from llb.cluster import registrations as registrations_module
from llb.cluster.peer_sources import PeerSources
from llb.cluster.registrations import Registrations
from llb.cluster.view import ClusterView
from llb.hub import HubGated, HubUnreachable
from llb.store.database import Database
from llb.store.tables import nodes
from llb.store.tables import registrations as store
from llb.store.tables.registrations import Registration
from llb.wire import Capability, Event, HubSource, Model, Placement, ReplicaReport, ReplicaState
from tests.cluster.fake_hub import COMMIT, FakeHub
from tests.cluster.test_view import HEARTBEAT, HELLO
from tests.harness import wait_until


class Cluster:
    """Registrations over a database and a view, without links."""

    def __init__(self, db: Database, view: ClusterView) -> None:
        self.db, self.view, self.hub = db, view, FakeHub()
        self.sent = 0
        sources = PeerSources(
            view,
            get_local_node_id=lambda: "n1",
            address_of=lambda _node_id: None,
            file_token_secret_of=lambda _node_id: None,
        )
        self.registrations = Registrations(db, self.hub.as_client(), view, sources)
        self.registrations.desired_state_changed.subscribe(self.count_change)

    def count_change(self) -> None:
        self.sent += 1

    def add_node(self, node_id: str = "n1", **more: Any) -> None:
        self.view.on_hello(structs.replace(HELLO, node_id=node_id, **more))
        self.view.on_heartbeat(node_id, HEARTBEAT)

    def report(self, state: ReplicaState, node_id: str = "n1") -> None:
        report = ReplicaReport(model_id="tiny", attempt=1, state=state)
        self.view.on_replica_report(node_id, report)
        self.registrations.on_replica_report(node_id, report)

    @property
    def tiny(self) -> Registration:
        return self.view.registrations["tiny"]

    async def register(self, model_id: str = "tiny", **more: Any) -> None:
        await self.registrations.register(model_id, **{"replicas": "all", "created_by": "ann", **more})

    async def wait(self, condition: Callable[[], bool]) -> None:
        await wait_until(condition)

    async def register_and_resolve(self) -> None:
        await self.register()
        await self.wait(lambda: self.tiny.resolved is not None)

    def model_ids_of(self, node_id: str = "n1") -> list[str]:
        return [model.model_id for model in self.registrations.desired_state_of(node_id).models]


@asynccontextmanager
async def start(db: Database, view: ClusterView) -> AsyncIterator[Cluster]:
    cluster = Cluster(db, view)
    await cluster.registrations.start("here")
    try:
        yield cluster
    finally:
        await cluster.registrations.close()


@pytest.fixture
async def cluster(db: Database, view: ClusterView) -> AsyncIterator[Cluster]:
    async with start(db, view) as made:
        yield made


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BACKOFF_INITIAL_S", "BACKOFF_MAX_S", "STORE_BACKOFF_INITIAL_S", "STORE_BACKOFF_MAX_S"):
        monkeypatch.setattr(registrations_module, name, 0.001)


# --- requests ----------------------------------------------------------------------------------------


async def test_a_model_is_registered_before_the_hub_answers(cluster: Cluster) -> None:
    cluster.hub.may_answer.clear()
    await cluster.register()
    assert await store.get(cluster.db, "tiny") == cluster.tiny
    assert (cluster.tiny.attempt, cluster.tiny.resolved, cluster.tiny.created_by) == (1, None, "ann")
    with pytest.raises(errors.AlreadyRegistered):
        await cluster.register()
    cluster.hub.may_answer.set()
    await cluster.wait(lambda: cluster.tiny.resolved is not None)
    assert cluster.tiny.resolved is not None
    [file] = cluster.tiny.resolved
    assert (file.name, file.size_bytes, file.sources) == (
        "tiny.gguf",
        300_000,
        (HubSource("test/tiny", COMMIT),),
    )


async def test_what_is_in_no_list_is_refused(cluster: Cluster) -> None:
    with pytest.raises(errors.ModelNotSupported):
        await cluster.register("nothing")
    with pytest.raises(errors.ModelNotFound):
        await cluster.registrations.delete("nothing")
    for refused in (cluster.registrations.delete("tiny"), cluster.registrations.change("tiny", pinned=True)):
        with pytest.raises(errors.ModelNotRegistered):
            await refused
    assert await store.list_registrations(cluster.db) == []


@pytest.mark.parametrize(
    ("budget_bytes", "disk_bytes", "refusal"),
    [
        (64_000_000, 300_000, None),
        (63_999_999, 300_000, errors.InsufficientMemory),
        (64_000_000, 299_999, errors.InsufficientStorage),
    ],
)
async def test_the_largest_node_must_have_room(
    cluster: Cluster, budget_bytes: int, disk_bytes: int, refusal: type[Exception] | None
) -> None:
    # Without any node the registration waits for one.
    cluster.registrations.check_capacity(cluster.view.get_model("tiny"))  # type: ignore[arg-type]
    cluster.add_node(memory_budget_bytes=budget_bytes)
    cluster.view.on_heartbeat("n1", structs.replace(HEARTBEAT, disk_free_bytes=disk_bytes))
    # A node with room on its disk alone does not count.
    cluster.add_node("n2", memory_budget_bytes=1)
    if refusal is None:
        await cluster.register()
        return
    with pytest.raises(refusal):
        await cluster.register()
    assert "tiny" not in cluster.view.registrations


async def test_a_model_in_error_is_tried_again_with_what_was_set(cluster: Cluster) -> None:
    cluster.hub.failure = HubGated("gated")
    await cluster.register(placement=Placement(tag="fast"))
    await cluster.wait(lambda: cluster.tiny.error is not None)
    assert str(cluster.tiny.error) == "gated"
    await cluster.registrations.change("tiny", pinned=True)
    cluster.hub.failure = None
    await cluster.register(replicas=1)
    await cluster.wait(lambda: cluster.tiny.resolved is not None)
    assert (cluster.tiny.attempt, cluster.tiny.replicas, cluster.tiny.error) == (2, 1, None)
    assert (cluster.tiny.pinned, cluster.tiny.placement) == (True, Placement(tag="fast"))


async def test_a_change_that_changes_nothing_is_not_sent(cluster: Cluster) -> None:
    await cluster.register_and_resolve()
    sent, revision = cluster.sent, await store.get_revision(cluster.db)
    await cluster.registrations.change("tiny", pinned=False)
    assert (cluster.sent, await store.get_revision(cluster.db)) == (sent, revision)
    await cluster.registrations.change("tiny", pinned=True)
    assert (cluster.sent, await store.get_revision(cluster.db)) == (sent + 1, revision + 1)
    assert cluster.registrations.desired_state_of("n1").revision == revision + 1


# --- resolving ---------------------------------------------------------------------------------------


async def test_an_absent_hub_is_waited_for_and_the_reason_is_shown(cluster: Cluster) -> None:
    cluster.hub.failure = HubUnreachable("the Hub cannot be reached")
    await cluster.register()
    await cluster.wait(lambda: len(cluster.hub.asked) > 2)
    assert cluster.view.waiting_reasons["tiny"] == "waiting for the network: the Hub cannot be reached"
    cluster.hub.failure = None
    await cluster.wait(lambda: cluster.tiny.resolved is not None)
    assert "tiny" not in cluster.view.waiting_reasons


async def test_a_deletion_ends_the_waiting(cluster: Cluster) -> None:
    cluster.hub.may_answer.clear()
    await cluster.register()
    await cluster.wait(lambda: bool(cluster.hub.asked))
    await cluster.registrations.delete("tiny")
    await cluster.wait(lambda: "tiny" not in cluster.view.registrations)
    cluster.hub.may_answer.set()
    await asyncio.sleep(0)
    assert cluster.hub.asked == ["tiny.gguf"]


async def test_resolving_goes_on_after_a_restart(db: Database, view: ClusterView, catalog: Path) -> None:
    async with start(db, view) as before:
        before.hub.may_answer.clear()
        await before.register()
        await before.registrations.change("tiny", pinned=True)
    bus: EventBus[Event] = EventBus()
    async with start(db, ClusterView(load_catalog(catalog), bus, lambda _repo: None)) as after:
        assert after.tiny.pinned
        await after.wait(lambda: after.tiny.resolved is not None)


@pytest.mark.parametrize(
    ("pins", "is_used"),
    [
        ({"revision": COMMIT, "sha256": "ab" * 32}, True),
        ({"revision": "main", "sha256": "ab" * 32}, False),
        ({"revision": COMMIT}, False),
    ],
)
async def test_without_the_hub_a_list_that_pins_commit_and_sha256_is_enough(
    cluster: Cluster, pins: dict[str, str], is_used: bool
) -> None:
    entry = cluster.view.get_model("tiny")
    assert entry is not None
    cluster.hub.failure = HubUnreachable("the Hub cannot be reached")
    pinned = structs.replace(entry, **pins)
    if not is_used:
        with pytest.raises(errors.HubUnavailable, match="The files of model 'tiny' cannot be looked up"):
            await cluster.registrations.resolve_files(pinned)
        return
    [file] = await cluster.registrations.resolve_files(pinned)
    assert (file.size_bytes, file.sha256, file.sources) == (
        300_000,
        "ab" * 32,
        (HubSource("test/tiny", COMMIT),),
    )
    # What waiting cannot mend is an error, whatever is pinned.
    cluster.hub.failure = HubGated("gated")
    with pytest.raises(errors.InvalidRequest, match="gated"):
        await cluster.registrations.resolve_files(pinned)


async def test_another_file_than_that_of_the_list_is_refused(cluster: Cluster) -> None:
    entry = cluster.view.get_model("tiny")
    assert entry is not None
    with pytest.raises(errors.InvalidRequest, match="is not the file of the catalogue"):
        await cluster.registrations.resolve_files(structs.replace(entry, sha256="ab" * 32))


async def test_a_result_is_stored_once_the_database_takes_it(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.hub.may_answer.clear()
    await cluster.register()
    attempts: list[str] = []
    put = store.put

    async def fail_twice(tx: Any, registration: Registration) -> None:
        attempts.append(registration.model_id)
        if len(attempts) <= 2:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        await put(tx, registration)

    monkeypatch.setattr(store, "put", fail_twice)
    cluster.hub.may_answer.set()
    await cluster.wait(lambda: cluster.tiny.resolved is not None)
    assert attempts == ["tiny"] * 3


# --- desired states and tombstones -------------------------------------------------------------------


async def test_a_node_is_sent_what_is_resolved_in_the_order_of_the_downloads(cluster: Cluster) -> None:
    cluster.add_node()
    await cluster.register_and_resolve()
    cluster.hub.may_answer.clear()
    await cluster.register("other")
    assert cluster.model_ids_of() == ["tiny"]
    cluster.hub.may_answer.set()
    await cluster.wait(lambda: cluster.view.registrations["other"].resolved is not None)
    assert cluster.model_ids_of() == ["tiny", "other"]
    await cluster.registrations._downloads.set_order(["other"])
    assert cluster.model_ids_of() == ["other", "tiny"]
    assert cluster.model_ids_of("n2") == []


async def test_what_older_nodes_do_not_know_is_not_sent(cluster: Cluster) -> None:
    cluster.add_node()
    await cluster.register_and_resolve()
    entry = structs.replace(
        cluster.tiny.entry, capabilities=(Capability.TEXT_GENERATION, Capability.TOOL_USE)
    )
    cluster.view.registrations["tiny"] = structs.replace(cluster.tiny, entry=entry)
    [model] = cluster.registrations.desired_state_of("n1").models
    assert model.capabilities == (Capability.TEXT_GENERATION,)


async def test_a_tombstone_waits_for_every_node_that_was_sent_the_model(cluster: Cluster) -> None:
    for node_id in ("n1", "n2"):
        cluster.add_node(node_id)
    await cluster.register_and_resolve()
    for node_id in ("n1", "n2"):
        assert cluster.model_ids_of(node_id) == ["tiny"]
    await cluster.registrations.delete("tiny")
    assert cluster.registrations.desired_state_of("n1").deleted == ("tiny",)
    cluster.report(ReplicaState.GONE)
    assert not cluster.registrations._is_tombstone_removable("tiny")
    assert len(cluster.registrations._tasks) == 0
    # The other one comes back without the model.
    cluster.registrations.on_hello(structs.replace(HELLO, node_id="n2"))
    await cluster.wait(lambda: "tiny" not in cluster.view.registrations)
    assert await store.get(cluster.db, "tiny") is None


async def test_a_tombstone_waits_for_no_node_that_was_removed(cluster: Cluster) -> None:
    cluster.add_node()
    await cluster.register_and_resolve()
    cluster.model_ids_of()
    await cluster.registrations.delete("tiny")
    assert "tiny" in cluster.view.registrations
    cluster.registrations.on_node_removed("n1")
    await cluster.wait(lambda: "tiny" not in cluster.view.registrations)


async def test_after_a_restart_a_tombstone_waits_for_the_nodes_that_are_stored(
    db: Database, view: ClusterView
) -> None:
    async with db.write() as tx:
        await nodes.ensure_local(tx, "n1", "attic")
    async with start(db, view) as cluster:
        await cluster.register_and_resolve()
        await cluster.registrations.delete("tiny")
        assert len(cluster.registrations._tasks) == 0
        cluster.registrations.on_hello(HELLO)
        await cluster.wait(lambda: "tiny" not in cluster.view.registrations)


async def test_a_model_that_is_registered_again_is_no_tombstone(cluster: Cluster) -> None:
    cluster.add_node()
    await cluster.register_and_resolve()
    cluster.model_ids_of()
    await cluster.registrations.delete("tiny")
    await cluster.register_and_resolve()
    cluster.report(ReplicaState.GONE)
    assert cluster.tiny.is_active
    assert cluster.tiny.attempt == 2
    assert cluster.model_ids_of() == ["tiny"]


def test_the_pins_of_a_split_model_are_not_enough() -> None:
    """The list has the sha256 of its first file only."""
    model = Model(
        id="m", name="M", repo="o/m", recommended_filename="a.gguf", size_bytes=1, required_memory_bytes=1,
        revision=COMMIT, sha256="ab" * 32, extra_filenames=("b.gguf",),
    )  # fmt: skip
    assert registrations_module._file_specs_from_catalog(model) is None
