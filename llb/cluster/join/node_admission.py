"""Admission of nodes: join tokens, each of which lets one host join, and the request that uses one."""

from __future__ import annotations

import time
from collections.abc import Callable

from msgspec import Struct

from llb import __version__, errors
from llb.cluster.node_membership import Members, protocol_incompatibility
from llb.security import tokens
from llb.store.database import Database, Transaction
from llb.store.tables import join_tokens
from llb.store.tables.join_tokens import TokenRejection
from llb.wire import PROTOCOL_VERSION, JoinReply, JoinRequest

JOIN_TOKEN_TTL_S = 3600.0

_TOKEN_REJECTION_MESSAGES = {
    TokenRejection.UNKNOWN: "The join token is not known here: "
    "make one with 'llb join-token' on the balancer",
    TokenRejection.USED: "The join token has already been used: each token admits one host; "
    "make a new one with 'llb join-token'",
    TokenRejection.EXPIRED: "The join token has expired: make a new one with 'llb join-token'",
}


class IssuedJoinToken(Struct, frozen=True):
    """A new join token, which is shown once. `expires_at` is Unix time in seconds."""

    token: str
    expires_at: float


class NodeAdmission:
    """Admits hosts that have a join token as nodes."""

    def __init__(self, db: Database, members: Members, *, clock: Callable[[], float] = time.time) -> None:
        self._db = db
        self._members = members
        self._clock = clock
        self._cluster_id = ""

    def start(self, cluster_id: str) -> None:
        """Admit nodes to the cluster with this id."""
        self._cluster_id = cluster_id

    async def create_join_token(self, created_by: str) -> IssuedJoinToken:
        """Create a token with which one host can join within `JOIN_TOKEN_TTL_S`."""
        token, now = tokens.new_join_token(), self._clock()
        async with self._db.write() as tx:
            await join_tokens.add(
                tx,
                tokens.hash_token(token),
                created_by=created_by,
                now=now,
                expires_at=now + JOIN_TOKEN_TTL_S,
            )
        return IssuedJoinToken(token, now + JOIN_TOKEN_TTL_S)

    async def admit_node(self, request: JoinRequest) -> JoinReply:
        """Admit a host. Raises `Conflict` for one that cannot join, `InvalidJoinToken`."""
        if request.cluster_id == self._cluster_id:
            raise errors.Conflict(
                "This is the same llb, or a copy of its home directory: a host cannot join itself"
            )
        if (refusal := protocol_incompatibility(request.protocol, request.version)) is not None:
            raise errors.Conflict(refusal, code="protocol_not_supported")

        async def consume_token(tx: Transaction) -> None:
            rejection = await join_tokens.consume(tx, tokens.hash_token(request.token), self._clock())
            if rejection is not None:
                raise errors.InvalidJoinToken(_TOKEN_REJECTION_MESSAGES[rejection])

        added = await self._members.add_node(request.name, consume_token)
        return JoinReply(
            node_id=added.node_id,
            name=added.name,
            cluster_id=self._cluster_id,
            credential=added.credential,
            hop_credential=added.hop_credential,
            protocol=PROTOCOL_VERSION,
            version=__version__,
        )
