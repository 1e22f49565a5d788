"""Nodes: their hellos, and what stays of a removed one."""

from __future__ import annotations

from msgspec import structs

from llb.store.database import Database
from llb.store.tables import nodes, replicas
from llb.wire import Hardware, Hello, ReplicaState


async def test_a_node_keeps_what_was_set_when_it_starts_again(db: Database) -> None:
    async with db.write() as tx:
        first = await nodes.ensure_local(tx, "n1", "box")
        await nodes.put(tx, structs.replace(first, tags=("fast",), draining=True))
        again = await nodes.ensure_local(tx, "n1", "renamed")
    assert (again.name, again.tags, again.draining) == ("renamed", ("fast",), True)
    assert again.created_at == first.created_at


async def test_a_removed_node_loses_its_credential_and_its_replicas(db: Database) -> None:
    node = nodes.NodeRecord(id="n2", name="other", credential_hash="secret", created_at=1.0)
    async with db.write() as tx:
        await nodes.put(tx, node)
        await replicas.put(
            tx, replicas.ReplicaRecord(node_id="n2", model_id="m", attempt=1, state=ReplicaState.READY)
        )
        assert await nodes.mark_removed(tx, "n2")
        assert not await nodes.mark_removed(tx, "n2")
    assert await nodes.list_nodes(db) == []
    [removed] = await nodes.list_nodes(db, include_removed=True)
    assert removed.credential_hash is None
    assert removed.removed_at is not None
    assert await replicas.list_by_node(db, "n2") == []


async def test_the_last_hello_is_kept_and_an_unreadable_one_is_ignored(db: Database) -> None:
    hello = Hello(
        protocol=1,
        node_id="n1",
        name="box",
        version="0.1",
        platform="Linux",
        addresses=(),
        hardware=Hardware(cpu="x", cpu_count=2, memory_total_bytes=1),
        memory_budget_bytes=1,
        vram_budget_bytes=0,
        max_downloads=2,
        slots_per_engine=4,
        replicas=(),
    )
    async with db.write() as tx:
        node = await nodes.ensure_local(tx, "n1", "box")
        await nodes.put(tx, structs.replace(node, hello=hello, last_seen=5.5))
    assert await nodes.get(db, "n1") == structs.replace(node, hello=hello, last_seen=5.5)
    async with db.write() as tx:
        await tx.execute("UPDATE nodes SET hello = ?", (b'{"of": "another version"}',))
    assert await nodes.get(db, "n1") == structs.replace(node, last_seen=5.5)
