"""Replicas of the nodes."""

from __future__ import annotations

from llb.store.database import Database
from llb.store.tables import replicas
from llb.wire import ReplicaState


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
