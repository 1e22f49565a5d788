"""Registrations, replicas, nodes and the header cache."""

from __future__ import annotations

from msgspec import structs

from llb.store.database import Database
from llb.store.tables import header_cache, nodes, registrations, replicas
from llb.store.tables.registrations import Registration, RegistrationState
from llb.wire import FileSpec, Hardware, Hello, HubSource, Model, ReplicaState

ENTRY = Model(
    id="tiny",
    name="Tiny",
    repo="org/tiny",
    recommended_filename="tiny.gguf",
    size_bytes=10,
    required_memory_bytes=20,
    tags=("chat",),
)
FILES = (
    FileSpec(name="tiny.gguf", size_bytes=10, sha256="ab" * 32, sources=(HubSource("org/tiny", "c0ffee"),)),
)
REGISTRATION = Registration(model_id="tiny", replicas=2, entry=ENTRY, created_at=3.0, created_by="ann")
TOMBSTONE = structs.replace(REGISTRATION, state=RegistrationState.DELETING)


async def test_a_registration_is_read_back_as_it_was_put(db: Database) -> None:
    async with db.write() as tx:
        await registrations.put(tx, REGISTRATION)
    assert await registrations.get(db, "tiny") == REGISTRATION
    async with db.write() as tx:
        await registrations.put(tx, structs.replace(REGISTRATION, resolved=FILES))
    assert await registrations.list_registrations(db) == [
        Registration(
            model_id="tiny", replicas=2, entry=ENTRY, resolved=FILES, created_at=3.0, created_by="ann"
        )
    ]
    assert await registrations.get(db, "other") is None


async def test_only_changes_increment_the_revision(db: Database) -> None:
    assert await registrations.get_revision(db) == 0
    async with db.write() as tx:
        await registrations.put(tx, REGISTRATION)
        await registrations.put(tx, structs.replace(REGISTRATION, error="gated"))
        await registrations.put(tx, TOMBSTONE)
        await registrations.remove(tx, "tiny")
        assert await registrations.get_revision(tx) == 4
    async with db.write() as tx:
        assert not await registrations.remove(tx, "tiny")
    assert await registrations.get_revision(db) == 4


async def test_only_a_tombstone_is_removed_so_a_new_registration_survives(db: Database) -> None:
    async with db.write() as tx:
        await registrations.put(tx, REGISTRATION)
        assert not await registrations.remove(tx, "tiny")
        await registrations.put(tx, TOMBSTONE)
        assert await registrations.get(tx, "tiny") == TOMBSTONE
        # Registered again meanwhile.
        await registrations.put(tx, REGISTRATION)
        assert not await registrations.remove(tx, "tiny")
    assert await registrations.get(db, "tiny") == REGISTRATION


async def test_replicas_of_a_node(db: Database) -> None:
    fingerprint = replicas.FileFingerprint(
        name="tiny.gguf", size_bytes=10, mtime_ns=1_700_000_000_000_000_001, sha256="ab" * 32
    )
    ready = replicas.ReplicaRecord(
        node_id="n1",
        model_id="tiny",
        attempt=2,
        state=ReplicaState.READY,
        files=(fingerprint,),
        pinned=True,
    )
    other = replicas.ReplicaRecord(
        node_id="n2", model_id="tiny", attempt=2, state=ReplicaState.ERROR, error="disk full"
    )
    async with db.write() as tx:
        await replicas.put(tx, ready)
        await replicas.put(tx, other)
        await replicas.update_last_used(tx, "n1", {"tiny": 5.5})
    assert await replicas.list_by_node(db, "n1") == [
        replicas.ReplicaRecord(
            node_id="n1",
            model_id="tiny",
            attempt=2,
            state=ReplicaState.READY,
            files=(fingerprint,),
            last_used=5.5,
            pinned=True,
        )
    ]
    async with db.write() as tx:
        assert await replicas.remove(tx, "n1", "tiny")
        assert not await replicas.remove(tx, "n1", "tiny")
    assert await replicas.list_by_node(db, "n1") == []
    assert await replicas.list_by_node(db, "n2") == [other]


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


async def test_header_metadata_by_sha256(db: Database) -> None:
    async with db.write() as tx:
        await header_cache.put(tx, "ab", b"one")
        await header_cache.put(tx, "ab", b"two")
    assert await header_cache.get(db, "ab") == b"two"
    assert await header_cache.get(db, "cd") is None
