"""Members: unique names, what is stored of a node, and a database that does not take it."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest
from msgspec import structs

from llb import errors
from llb.cluster.node_membership import NODE_NAME_MAX_LENGTH, Members, protocol_incompatibility
from llb.cluster.view import ClusterView
from llb.security import tokens
from llb.store.database import Database, Transaction
from llb.store.tables import nodes
from llb.store.tables.nodes import NodeRecord
from llb.wire import MIN_PROTOCOL_VERSION, PROTOCOL_VERSION, Hello, NodePatch, ReplicaReport, ReplicaState
from tests.cluster.test_view import HELLO

READY = ReplicaReport(model_id="tiny", attempt=1, state=ReplicaState.READY)


async def any_token(_tx: Transaction) -> None:
    """Every join token is valid."""


class Cluster:
    """Members over a database and a view."""

    def __init__(self, db: Database, view: ClusterView) -> None:
        self.db, self.view = db, view
        self.now = 1000.0
        self.members = Members(db, view, clock=lambda: self.now)

    async def start(self, name: str = "attic") -> None:
        await self.members.start("local", name)

    async def join(self, name: str = "garage") -> NodeRecord:
        added = await self.members.add_node(name, any_token)
        return self.record(added.node_id)

    def record(self, node_id: str) -> NodeRecord:
        record = self.members.get_record(node_id)
        assert record is not None
        return record

    async def hello(self, node_id: str, **more: Any) -> Hello:
        hello = structs.replace(HELLO, **{"node_id": node_id, **more})
        await self.members.record_hello(hello)
        self.view.on_hello(hello)
        return hello

    async def stored(self, node_id: str) -> NodeRecord | None:
        return await nodes.get(self.db, node_id)


@pytest.fixture
async def cluster(db: Database, view: ClusterView) -> Cluster:
    made = Cluster(db, view)
    await made.start()
    return made


# --- names -------------------------------------------------------------------------------------------


async def test_hosts_of_one_name_are_numbered(cluster: Cluster) -> None:
    names = [(await cluster.join(name)).name for name in ("garage", "Garage", "ATTIC", "garage")]
    assert names == ["garage", "Garage-2", "ATTIC-2", "garage-3"]
    assert cluster.members.list_node_ids()[0] == "local"


async def test_a_numbered_name_is_no_longer_than_a_name_may_be(cluster: Cluster) -> None:
    name = "a" * (NODE_NAME_MAX_LENGTH + 9)
    first, second = (await cluster.join(name)).name, (await cluster.join(name)).name
    assert (first, second) == ("a" * NODE_NAME_MAX_LENGTH, "a" * (NODE_NAME_MAX_LENGTH - 2) + "-2")


async def test_the_host_itself_takes_no_name_of_a_joined_node(db: Database, view: ClusterView) -> None:
    before = Cluster(db, view)
    await before.start()
    await before.join("garage")
    after = Cluster(db, view)
    await after.start("garage")
    assert after.record("local").name == "garage-2"
    # It keeps its own.
    await (again := Cluster(db, view)).start("garage-2")
    assert again.record("local").name == "garage-2"


async def test_a_node_keeps_the_name_given_here_until_it_is_renamed_there(cluster: Cluster) -> None:
    record = await cluster.join("garage")
    await cluster.hello(record.id, name="box")
    assert cluster.record(record.id).name == "garage"
    await cluster.hello(record.id, name="box")
    assert cluster.record(record.id).name == "garage"
    await cluster.hello(record.id, name="attic")
    assert cluster.record(record.id).name == "attic-2"
    # A name that no node may have changes nothing.
    await cluster.hello(record.id, name="a b")
    assert cluster.record(record.id).name == "attic-2"


async def test_a_rename_here(cluster: Cluster) -> None:
    record = await cluster.join()
    other = await cluster.join("cellar")
    told: list[str] = []
    cluster.members.node_updated.subscribe(told.append)
    with pytest.raises(errors.Conflict, match="already called 'CELLAR'"):
        await cluster.members.update_node(record.id, NodePatch(name="CELLAR"))
    with pytest.raises(errors.Conflict, match="set with --name"):
        await cluster.members.update_node("local", NodePatch(name="roof"))
    with pytest.raises(errors.NotFound):
        await cluster.members.update_node("nothing", NodePatch())
    assert told == []
    # Another spelling of its own name is free.
    await cluster.members.update_node(record.id, NodePatch(name="GARAGE", tags=("fast",)))
    await cluster.members.update_node(record.id, NodePatch(draining=True))
    await cluster.members.update_node("local", NodePatch(name="attic", draining=True))
    assert told == [record.id, record.id, "local"]
    stored = await cluster.stored(record.id)
    assert stored == cluster.record(record.id)
    assert stored is not None
    assert (stored.name, stored.tags, stored.draining) == ("GARAGE", ("fast",), True)
    assert await cluster.stored(other.id) == other


# --- credentials -------------------------------------------------------------------------------------


async def test_a_node_is_found_by_its_credential_until_it_is_removed(cluster: Cluster) -> None:
    added = await cluster.members.add_node("garage", any_token)
    found = cluster.members.find_by_credential(added.credential)
    assert found is not None
    assert found.id == added.node_id
    # Not by that which the balancer presents.
    assert cluster.members.find_by_credential(added.hop_credential) is None
    answer = cluster.members.answer_challenge(added.node_id, "nonce")
    assert answer == tokens.balancer_challenge_response(added.hop_credential, added.node_id, "nonce")
    assert cluster.members.answer_challenge("local", "nonce") is None
    gone: list[str] = []
    cluster.members.node_removed.subscribe(gone.append)
    await cluster.members.remove_node(added.node_id)
    assert gone == [added.node_id]
    assert cluster.members.find_by_credential(added.credential) is None
    assert cluster.members.answer_challenge(added.node_id, "nonce") is None
    assert added.node_id not in cluster.view.nodes
    with pytest.raises(errors.NotFound):
        await cluster.members.remove_node(added.node_id)
    with pytest.raises(errors.Conflict, match="cannot remove itself"):
        await cluster.members.remove_node("local")


async def test_a_refused_token_makes_no_node(cluster: Cluster) -> None:
    async def refuse(_tx: Transaction) -> None:
        raise errors.InvalidJoinToken("used")

    with pytest.raises(errors.InvalidJoinToken):
        await cluster.members.add_node("garage", refuse)
    assert cluster.members.list_node_ids() == ("local",)
    assert [node.id for node in await nodes.list_nodes(cluster.db)] == ["local"]


async def test_a_restart_knows_all_nodes_and_no_removed_one(
    cluster: Cluster, db: Database, view: ClusterView
) -> None:
    kept, removed = await cluster.join("garage"), await cluster.join("cellar")
    await cluster.hello(kept.id)
    await cluster.members.remove_node(removed.id)
    again = Cluster(db, view)
    await again.start()
    assert set(again.members.list_node_ids()) == {"local", kept.id}
    assert again.record(kept.id).hello is not None


# --- hellos and flushes ------------------------------------------------------------------------------


async def test_a_hello_of_a_removed_node_is_not_stored(cluster: Cluster) -> None:
    assert await cluster.members.record_hello(structs.replace(HELLO, node_id="nothing")) is None
    assert await cluster.stored("nothing") is None
    # The local node's own is not needed: it is there when the process is.
    assert (await cluster.members.record_hello(structs.replace(HELLO, node_id="local"))) == cluster.record(
        "local"
    )
    assert cluster.record("local").hello is None


async def test_a_full_disk_keeps_no_node_away_and_the_hello_is_stored_later(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = await cluster.join()
    with monkeypatch.context() as disk:

        async def fail(*_: object) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        disk.setattr(nodes, "put", fail)
        await cluster.hello(record.id)
        assert cluster.record(record.id).hello is not None
        assert cluster.members._flush_needed.is_set()
        await cluster.members.flush()
    stored = await cluster.stored(record.id)
    assert stored is not None
    assert stored.hello is None
    await cluster.members.flush()
    stored = await cluster.stored(record.id)
    assert stored is not None
    assert stored.hello is not None


async def test_a_flush_stores_the_replicas_that_were_reported_since_the_hello(cluster: Cluster) -> None:
    record = await cluster.join()
    await cluster.hello(record.id)
    await cluster.members.flush()
    assert not cluster.members._flush_needed.is_set()
    cluster.members.on_replica_report(record.id, READY)
    assert cluster.members._flush_needed.is_set()
    cluster.view.on_replica_report(record.id, READY)
    cluster.view.nodes[record.id].last_seen = 2000.0
    await cluster.members.close()
    stored = await cluster.stored(record.id)
    assert stored is not None
    assert stored.hello is not None
    assert (stored.hello.replicas, stored.last_seen) == ((READY,), 2000.0)
    # What is stored already needs no flush.
    cluster.members.on_replica_report(record.id, READY)
    assert not cluster.members._flush_needed.is_set()
    gone = structs.replace(READY, model_id="other", state=ReplicaState.GONE)
    cluster.members.on_replica_report(record.id, gone)
    cluster.members.on_replica_report("nothing", READY)
    assert not cluster.members._flush_needed.is_set()


async def test_members_that_never_started_store_nothing(db: Database, view: ClusterView) -> None:
    await Cluster(db, view).members.close()
    assert await nodes.list_nodes(db) == []


@pytest.mark.parametrize(
    ("protocol", "reason"),
    [
        (PROTOCOL_VERSION, None),
        (MIN_PROTOCOL_VERSION, None),
        (PROTOCOL_VERSION + 1, "upgrade the balancer first"),
        (MIN_PROTOCOL_VERSION - 1, "too old"),
    ],
)
def test_the_protocols_of_a_version_before_and_after(protocol: int, reason: str | None) -> None:
    told = protocol_incompatibility(protocol, "9.9")
    assert (told is None) is (reason is None)
    assert reason is None or reason in str(told)
