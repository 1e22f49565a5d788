"""Membership of nodes: records, names and removal. Decisions are stored in SQLite before they take effect."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from msgspec import Struct, structs

from llb import __version__, errors
from llb.base.events import Topic
from llb.cluster.view import ClusterView
from llb.config import NODE_NAME_PATTERN
from llb.security import tokens
from llb.store.database import Database, Transaction
from llb.store.tables import nodes
from llb.store.tables.nodes import NodeRecord
from llb.texts.coded_text import CodedText
from llb.wire import (
    MIN_PROTOCOL_VERSION,
    PROTOCOL_VERSION,
    Hello,
    NodePatch,
    ReplicaReport,
    ReplicaState,
)

log = logging.getLogger(__name__)

# Precision of the stored time at which a node was last seen, which matters after the balancer was killed.
LAST_SEEN_INTERVAL_S = 60.0
# Changes within this time are written together.
FLUSH_DELAY_S = 1.0
NODE_NAME_MAX_LENGTH = 63


class AddedNode(Struct, frozen=True):
    """A new node, with its credentials, of which one is stored as a hash."""

    node_id: str
    name: str
    credential: str
    hop_credential: str


class Members:
    """Owner of the stored nodes. Reads come from memory, without a query."""

    def __init__(self, db: Database, view: ClusterView, *, clock: Callable[[], float] = time.time) -> None:
        self._db = db
        self._view = view
        self._clock = clock
        self._records: dict[str, NodeRecord] = {}
        self._id_by_credential_hash: dict[str, str] = {}
        self._lock = asyncio.Lock()
        self._flush_needed = asyncio.Event()
        # Nodes whose hello the database did not take; `flush()` writes them.
        self._unsaved_node_ids: set[str] = set()
        self._local_node_id = ""
        self.node_removed: Topic[str] = Topic()
        self.node_updated: Topic[str] = Topic()

    async def start(self, local_node_id: str, local_node_name: str) -> None:
        """Load the stored nodes; joined nodes are offline until their hello."""
        self._local_node_id = local_node_id
        for record in await nodes.list_nodes(self._db):
            self._cache_record(record)
            if record.id != local_node_id:
                self._view.restore_offline(record)
        name = self._make_unique_name(local_node_name, except_node_id=local_node_id)
        if name != local_node_name:
            log.warning("a joined node is already called %s: this host is called %s", local_node_name, name)
        async with self._db.write() as tx:
            self._cache_record(await nodes.ensure_local(tx, local_node_id, name))

    async def close(self) -> None:
        """Store what has changed; idempotent."""
        if self._local_node_id:
            await self.flush()

    def get_record(self, node_id: str) -> NodeRecord | None:
        return self._records.get(node_id)

    def list_node_ids(self) -> tuple[str, ...]:
        """Node ids in the order of joining, the local node first."""
        return tuple(self._records)

    def find_by_credential(self, credential: str) -> NodeRecord | None:
        """The node with this credential; None if it is unknown or was removed."""
        node_id = self._id_by_credential_hash.get(tokens.hash_token(credential))
        return None if node_id is None else self._records.get(node_id)

    def answer_challenge(self, node_id: str, nonce: str) -> str | None:
        """The response that proves to a node that this is its balancer; None for an unknown node."""
        record = self._records.get(node_id)
        if record is None or record.hop_credential is None:
            return None
        return tokens.balancer_challenge_response(record.hop_credential, node_id, nonce)

    # --- changes ------------------------------------------------------------------------------------

    async def add_node(
        self, preferred_name: str, consume_token: Callable[[Transaction], Awaitable[None]]
    ) -> AddedNode:
        """Add a host that joins as a new node.

        `consume_token` is called in the same transaction, and raises to refuse the node. The id is new, so
        that records of an earlier membership of the host are never mistaken for this one.
        """
        async with self._lock:
            credential, hop_credential = tokens.new_node_credential(), tokens.new_node_credential()
            record = NodeRecord(
                id=tokens.new_random_id(),
                name=self._make_unique_name(preferred_name),
                credential_hash=tokens.hash_token(credential),
                hop_credential=hop_credential,
                created_at=self._clock(),
            )
            async with self._db.write() as tx:
                await consume_token(tx)
                await nodes.put(tx, record)
            self._cache_record(record)
            self._view.restore_offline(record)
        return AddedNode(record.id, record.name, credential, hop_credential)

    def _make_unique_name(self, preferred_name: str, except_node_id: str | None = None) -> str:
        """`preferred_name`, with a suffix `-2`, `-3`, … if a node other than `except_node_id` has it."""
        taken = {record.name.casefold() for record in self._records.values() if record.id != except_node_id}
        name, number = preferred_name[:NODE_NAME_MAX_LENGTH], 2
        while name.casefold() in taken:
            suffix = f"-{number}"
            name, number = preferred_name[: NODE_NAME_MAX_LENGTH - len(suffix)] + suffix, number + 1
        return name

    async def record_hello(self, hello: Hello) -> NodeRecord | None:
        """Store a node's hello, so that the node can be shown while it is offline; None if it was removed.

        A node keeps the name that this balancer gave it, unless its hello carries another name than the hello
        before. A hello that the database does not take is kept in memory and stored later: a node must be
        able to reconnect while the disk is full.
        """
        async with self._lock:
            record = self._records.get(hello.node_id)
            if record is None or record.id == self._local_node_id:
                return record
            name = record.name
            renamed = record.hello is not None and record.hello.name != hello.name
            if renamed and NODE_NAME_PATTERN.fullmatch(hello.name):
                name = self._make_unique_name(hello.name, except_node_id=record.id)
                log.info("node %s is called %s now", record.name, name)
            record = structs.replace(record, name=name, hello=hello, last_seen=self._clock())
            try:
                async with self._db.write() as tx:
                    await nodes.put(tx, record)
            except sqlite3.Error as error:
                log.warning("the hello of node %s could not be stored: %s; trying again", name, error)
                self._unsaved_node_ids.add(record.id)
                self._flush_needed.set()
            else:
                self._unsaved_node_ids.discard(record.id)
            self._cache_record(record)
        return record

    def on_replica_report(self, node_id: str, report: ReplicaReport) -> None:
        """Schedule a flush if the state of a replica differs from the stored one.

        After a power cut the balancer may start before the node, and must know what the node holds.
        """
        record = self._records.get(node_id)
        if record is not None and record.hello is not None:
            stored_states = {replica.model_id: replica.state for replica in record.hello.replicas}
            if stored_states.get(report.model_id, ReplicaState.GONE) is not report.state:
                self._flush_needed.set()

    async def run_flush_loop(self) -> None:
        """Store the replicas and last-seen times of nodes periodically, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_SEEN_INTERVAL_S):
                    await self._flush_needed.wait()
                await asyncio.sleep(FLUSH_DELAY_S)
            await self.flush()

    async def flush(self) -> None:
        """Store the replicas and last-seen times of the joined nodes that have changed."""
        self._flush_needed.clear()
        async with self._lock:
            changed = [
                structs.replace(
                    record,
                    last_seen=node.last_seen,
                    hello=structs.replace(record.hello, replicas=tuple(node.replicas.values())),
                )
                for record in self._records.values()
                if record.hello is not None
                and (node := self._view.nodes.get(record.id)) is not None
                and (node.last_seen != record.last_seen or record.id in self._unsaved_node_ids)
            ]
            if not changed:
                return
            try:
                async with self._db.write() as tx:
                    for record in changed:
                        await nodes.put(tx, record)
            except sqlite3.Error as error:
                log.warning("the replicas of the nodes could not be stored: %s", error)
                return
            for record in changed:
                self._cache_record(record)
                self._unsaved_node_ids.discard(record.id)

    async def update_node(self, node_id: str, patch: NodePatch) -> None:
        """Rename, tag or drain a node. Raises `NotFound`, or `Conflict` if the name is taken."""
        async with self._lock:
            record = self._require_record(node_id)
            name = record.name if patch.name is None else patch.name
            if name != record.name:
                if node_id == self._local_node_id:
                    raise errors.Conflict(
                        CodedText(
                            "node_name_fixed", "The name of this host is set with --name when llb starts"
                        )
                    )
                if any(
                    other.id != node_id and other.name.casefold() == name.casefold()
                    for other in self._records.values()
                ):
                    raise errors.Conflict(
                        CodedText("node_name_taken", "Another node is already called '{name}'", name=name),
                        param="name",
                    )
            record = structs.replace(
                record,
                name=name,
                tags=record.tags if patch.tags is None else patch.tags,
                draining=record.draining if patch.draining is None else patch.draining,
            )
            async with self._db.write() as tx:
                await nodes.put(tx, record)
            self._cache_record(record)
        if patch.draining is not None:
            log.info("node %s %s", record.name, "is draining" if record.draining else "gets requests again")
        self._view.update_node(record)
        self.node_updated.publish(node_id)

    async def remove_node(self, node_id: str) -> None:
        """Remove a node; its files stay on its disk. Raises `NotFound`, `Conflict` for the local node."""
        if node_id == self._local_node_id:
            raise errors.Conflict(
                CodedText("node_is_own", "This host cannot remove itself; drain it to send it no requests")
            )
        async with self._lock:
            record = self._require_record(node_id)
            async with self._db.write(uses_ballast=True) as tx:
                await nodes.mark_removed(tx, node_id)
            del self._records[node_id]
            self._unsaved_node_ids.discard(node_id)
            self._id_by_credential_hash.pop(record.credential_hash or "", None)
        self._view.remove_node(node_id)
        self.node_removed.publish(node_id)

    def _require_record(self, node_id: str) -> NodeRecord:
        record = self._records.get(node_id)
        if record is None:
            raise errors.NotFound("There is no such node")
        return record

    def _cache_record(self, record: NodeRecord) -> None:
        self._records[record.id] = record
        if record.credential_hash is not None:
            self._id_by_credential_hash[record.credential_hash] = record.id


def protocol_incompatibility(protocol: int, version: str) -> str | None:
    """The reason why a node's protocol version is not supported; None if it is."""
    if protocol > PROTOCOL_VERSION:
        return (
            f"This node runs llb {version}, which is newer than the balancer's {__version__}: "
            "upgrade the balancer first"
        )
    if protocol < MIN_PROTOCOL_VERSION:
        return f"This node runs llb {version}, which is too old for the balancer's {__version__}: upgrade it"
    return None
