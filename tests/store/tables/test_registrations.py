"""Registrations: their revision, their tombstones."""

from __future__ import annotations

from msgspec import structs

from llb.store.database import Database
from llb.store.tables import registrations
from llb.store.tables.registrations import Registration, RegistrationState
from llb.wire import FileSpec, HubSource, Model

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
