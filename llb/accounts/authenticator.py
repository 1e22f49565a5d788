"""From a credential to the principal behind it. Remembers for a second, so that a key costs no query a request."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from llb.accounts.limit_policy import UNLIMITED
from llb.base.tasks import TaskSupervisor
from llb.errors import InvalidApiKey
from llb.security import tokens
from llb.security.permissions import Principal, PrincipalKind
from llb.store.database import Database
from llb.store.tables import keys, sessions
from llb.wire import Role

log = logging.getLogger(__name__)

SESSION_IDLE_S = 30 * 86_400.0  # a session ends when it was not used for this long,
SESSION_MAX_S = 90 * 86_400.0  # and this long after it began, used or not
CACHE_TTL_S = 1.0  # how long a change by another process (the command line) may go unseen
LAST_USED_INTERVAL_S = 60.0
FLUSH_DELAY_S = 1.0
MAX_CACHED = 10_000
DEFAULT_LOGIN_LOCAL_ONLY = "The default password works on the host itself only; change it first"


class Authenticator(Protocol):
    """Whose credential it is. A balancer has accounts and nodes; a host that joined knows its balancer alone."""

    async def authenticate_key(self, key: str) -> Principal:
        """Raises `InvalidApiKey`."""
        ...

    async def authenticate_session(self, token: str) -> Principal | None: ...

    def authenticate_node(self, credential: str) -> Principal | None: ...


class BalancerAuthenticator:
    """The credentials that a joined host knows: its balancer's."""

    def __init__(self, get_hop_credential: Callable[[], str | None]) -> None:
        self._get_hop_credential = get_hop_credential

    async def authenticate_key(self, key: str) -> Principal:
        raise InvalidApiKey("This host lends itself to another llb, and has no accounts of its own")

    async def authenticate_session(self, token: str) -> Principal | None:
        return None

    def authenticate_node(self, credential: str) -> Principal | None:
        """The balancer, by what it was given when this host joined."""
        expected = self._get_hop_credential()
        if expected is None or not tokens.tokens_equal(credential, expected):
            return None
        return Principal(kind=PrincipalKind.NODE, id="balancer", role=Role.USER)


PrincipalLookup = Callable[[str], Awaitable[Principal | None]]


@dataclass(frozen=True)
class _CachedPrincipal:
    principal: Principal
    cached_at: float


class AccountAuthenticator:
    """Answers who a key or a session is, and notes, batched, when each was last used."""

    def __init__(
        self,
        db: Database,
        *,
        node_id_of: Callable[[str], str | None] = lambda _credential: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`node_of` tells the id of the node that has a credential."""
        self._db = db
        self._node_id_of = node_id_of
        self._clock = clock
        self._tasks = TaskSupervisor("identity")
        self._cache: dict[str, _CachedPrincipal] = {}
        self._cache_generation = 0
        self._pending_last_used: dict[PrincipalKind, dict[str, float]] = {
            PrincipalKind.KEY: {},
            PrincipalKind.SESSION: {},
        }
        self._last_marked_at: dict[str, float] = {}
        self._dirty = asyncio.Event()

    def start(self) -> None:
        self._tasks.spawn(self._flush_forever(), "flush")

    async def close(self) -> None:
        """Stop, and write what is still to be noted; idempotent."""
        await self._tasks.close()
        await self.flush()

    def clear_cache(self) -> None:
        """Look everything up anew: this process changed a user, a key or a session."""
        self._cache_generation += 1
        self._cache.clear()

    async def authenticate_key(self, key: str) -> Principal:
        """Whose `key` it is; raises `InvalidApiKey` for an unknown, expired or revoked one."""
        principal = await self._look_up(tokens.hash_token(key), self._find_key)
        if principal is None:
            raise InvalidApiKey("The API key is not valid: unknown or revoked")
        if principal.expires_at is not None and principal.expires_at <= self._clock():
            raise InvalidApiKey("The API key has expired")
        return principal

    async def authenticate_session(self, token: str) -> Principal | None:
        """Whose session it is; None when it has ended."""
        principal = await self._look_up(tokens.hash_token(token), self._find_session)
        if principal is None or (principal.expires_at or 0.0) <= self._clock():
            return None
        return principal

    def authenticate_node(self, credential: str) -> Principal | None:
        """The node that presents `credential`; None when there is none, or it was removed."""
        node_id = self._node_id_of(credential)
        return None if node_id is None else Principal(kind=PrincipalKind.NODE, id=node_id, role=Role.USER)

    async def flush(self) -> None:
        """Write the times of last use that are not written yet."""
        self._dirty.clear()
        touched, self._pending_last_used = (
            self._pending_last_used,
            {kind: {} for kind in self._pending_last_used},
        )
        if not any(touched.values()):
            return
        try:
            async with self._db.write() as tx:
                await keys.touch(tx, touched[PrincipalKind.KEY])
                await sessions.touch(tx, touched[PrincipalKind.SESSION])
        except sqlite3.Error as error:
            # Nobody should be locked out because a full disk cannot take the time of last use.
            log.warning("the time of last use could not be written: %s", error)

    async def _flush_forever(self) -> None:
        while True:
            await self._dirty.wait()
            await asyncio.sleep(FLUSH_DELAY_S)
            await self.flush()

    async def _look_up(self, token_hash: str, lookup: PrincipalLookup) -> Principal | None:
        now = self._clock()
        remembered = self._cache.get(token_hash)
        if remembered is not None and 0 <= now - remembered.cached_at < CACHE_TTL_S:
            principal: Principal | None = remembered.principal
        else:
            generation = self._cache_generation
            principal = await lookup(token_hash)
            # A revocation that ran meanwhile must not be undone by what was read before it.
            if principal is not None and generation == self._cache_generation:
                if len(self._cache) >= MAX_CACHED:
                    self._cache.clear()
                self._cache[token_hash] = _CachedPrincipal(principal, now)
        if principal is not None:
            self._mark_used(principal, now)
        return principal

    def _mark_used(self, principal: Principal, now: float) -> None:
        if 0 <= now - self._last_marked_at.get(principal.id, 0.0) < LAST_USED_INTERVAL_S:
            return
        if len(self._last_marked_at) >= MAX_CACHED:
            self._last_marked_at.clear()
        self._last_marked_at[principal.id] = now
        self._pending_last_used[principal.kind][principal.id] = now
        self._dirty.set()

    async def _find_key(self, key_hash: str) -> Principal | None:
        key = await keys.by_hash(self._db, key_hash)
        if key is None:
            return None
        return Principal(
            kind=PrincipalKind.KEY,
            id=key.id,
            name=key.name,
            # A key made on the host has no owner: its scopes alone count.
            role=Role.ADMIN if key.owner_role is None else key.owner_role,
            scopes=key.scopes,
            user_id=key.owner_id,
            username=key.owner_name,
            expires_at=key.expires_at,
            limits=None if key.limits == UNLIMITED else key.limits,
        )

    async def _find_session(self, session_id: str) -> Principal | None:
        session = await sessions.get(self._db, session_id)
        if session is None:
            return None
        return Principal(
            kind=PrincipalKind.SESSION,
            id=session.id,
            role=session.role,
            user_id=session.user_id,
            username=session.username,
            must_change_password=session.must_change_password,
            expires_at=min(session.expires_at, session.last_seen + SESSION_IDLE_S),
        )
