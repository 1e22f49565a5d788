"""Authenticators: from a credential to its principal."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import reduce
from typing import Protocol

from msgspec import Struct

from llb.accounts.limit_policy import UNLIMITED, strictest_limits
from llb.base.events import Topic
from llb.base.tasks import TaskSupervisor
from llb.errors import InvalidApiKey
from llb.security import tokens
from llb.security.permissions import KeyAllowance, Principal, PrincipalKind
from llb.store.database import Database
from llb.store.tables import keys, sessions
from llb.store.tables.keys import ApiKey
from llb.store.tables.sessions import Session
from llb.store.trusted_clock import CONFIRMATION_S
from llb.texts.coded_text import CodedText
from llb.wire import Role

log = logging.getLogger(__name__)

# A session ends after this time without use.
SESSION_IDLE_S = 30 * 86_400.0
# A session ends at this age even if it is in use.
SESSION_MAX_S = 90 * 86_400.0
# The cache saves one query per request. A change by another process (a command) takes effect after this time.
CACHE_TTL_S = 1.0
LAST_USED_INTERVAL_S = 60.0
FLUSH_DELAY_S = 1.0
MAX_CACHED = 10_000


def default_login_text(doubt: str) -> CodedText:
    """Return why the default password is refused, because of a `doubt` that the request is local."""
    return CodedText(
        "default_login_local_only",
        "The default password works on the host itself only; change it first: {doubt}. Run 'llb password' on "
        "the host, or open the link that llb printed when it started",
        doubt=doubt,
    )


class Authenticator(Protocol):
    """Finds the principal of a credential."""

    async def authenticate_key(self, key: str) -> Principal:
        """Return the principal of an API key; raises `InvalidApiKey`."""
        ...

    async def authenticate_session(self, token: str) -> Principal | None:
        """Return the principal of a session; None for an unknown or ended one."""
        ...

    def authenticate_node(self, credential: str) -> Principal | None:
        """Return the node with this credential; None for an unknown one."""
        ...

    @property
    def generation(self) -> int:
        """Number that changes with every change of an account, a key or a session by this process."""
        ...

    def trusted_s(self, key: str) -> float:
        """Return for how many seconds the principal of a valid key need not be looked up again.

        Only while `generation` is the same.
        """
        ...


class BalancerAuthenticator:
    """Authenticator of a joined node, which knows only the credential of its balancer."""

    def __init__(self, get_hop_credential: Callable[[], str | None]) -> None:
        self._get_hop_credential = get_hop_credential

    async def authenticate_key(self, key: str) -> Principal:
        raise InvalidApiKey("This host is a node of another llb and has no accounts of its own")

    async def authenticate_session(self, token: str) -> Principal | None:
        return None

    generation = 0

    def trusted_s(self, key: str) -> float:
        """Return 0: there are no keys."""
        return 0.0

    def authenticate_node(self, credential: str) -> Principal | None:
        """Return the balancer, by the credential that it received when this host joined."""
        expected = self._get_hop_credential()
        if expected is None or not tokens.tokens_equal(credential, expected):
            return None
        return Principal(kind=PrincipalKind.NODE, id="balancer", role=Role.USER)


def principal_of_key(key: ApiKey, ancestors: Sequence[ApiKey]) -> Principal:
    """Return the principal of a key that comes from `ancestors`, its parent first."""
    lineage = (key, *ancestors)
    limited = [each for each in lineage if each.limits != UNLIMITED]
    return Principal(
        kind=PrincipalKind.KEY,
        id=key.id,
        name=key.name,
        # A key created by a command has no owner, so only its scopes limit it.
        role=Role.ADMIN if key.owner_role is None else key.owner_role,
        scopes=key.scopes,
        user_id=key.owner_id,
        username=key.owner_name,
        expires_at=min((each.expires_at for each in lineage if each.expires_at is not None), default=None),
        limits=reduce(strictest_limits, (each.limits for each in limited)) if limited else None,
        allowances=tuple(KeyAllowance(each.id, each.limits) for each in limited),
        root_key_id=lineage[-1].id,
        key_ids=tuple(each.id for each in lineage),
        generation=len(ancestors),
    )


def principal_of_session(session: Session) -> Principal:
    """Return the principal of a session."""
    return Principal(
        kind=PrincipalKind.SESSION,
        id=session.id,
        role=session.role,
        user_id=session.user_id,
        username=session.username,
        must_change_password=session.must_change_password,
        expires_at=min(session.expires_at, session.last_seen + SESSION_IDLE_S),
    )


PrincipalLookup = Callable[[str], Awaitable[Principal | None]]


class _CachedPrincipal(Struct, frozen=True):
    principal: Principal
    cached_at: float


class AccountAuthenticator:
    """Authenticator of a balancer: API keys, sessions and nodes.

    It also records when each key and session was last used, in batches.
    """

    def __init__(
        self,
        db: Database,
        *,
        node_id_of: Callable[[str], str | None] = lambda _credential: None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """`node_id_of` returns the id of the node with a credential."""
        self._db = db
        self._node_id_of = node_id_of
        self._clock = clock or db.clock.latest
        self._tasks = TaskSupervisor("identity")
        self._cache: dict[str, _CachedPrincipal] = {}
        self._cache_generation = 0
        self._pending_last_used: dict[PrincipalKind, dict[str, float]] = {
            PrincipalKind.KEY: {},
            PrincipalKind.SESSION: {},
        }
        self._last_marked_at: dict[str, float] = {}
        self._dirty = asyncio.Event()
        self.accounts_changed: Topic[()] = Topic()

    def start(self) -> None:
        """Start to write the times of last use."""
        self._tasks.spawn(self._flush_forever(), "flush")

    async def close(self) -> None:
        """Stop, and write the pending times of last use; idempotent."""
        await self._tasks.close()
        await self.flush()

    def clear_cache(self) -> None:
        """Forget all principals, after this process changed a user, a key or a session."""
        self._cache_generation += 1
        self._cache.clear()
        self.accounts_changed.publish()

    @property
    def generation(self) -> int:
        """Number that changes with every change of an account, a key or a session by this process."""
        return self._cache_generation

    def trusted_s(self, key: str) -> float:
        """Return for how many seconds the principal of a valid key need not be looked up again."""
        cached = self._cache.get(tokens.hash_token(key))
        if cached is None:
            return 0.0
        ends = (cached.cached_at + CACHE_TTL_S, cached.principal.expires_at)
        # At most the lifetime of the cache, even if the clock was set back.
        return min(CACHE_TTL_S, min(end for end in ends if end is not None) - self._clock())

    async def authenticate_key(self, key: str) -> Principal:
        """Return the principal of a key; raises `InvalidApiKey` for an unknown, expired or revoked one."""
        principal = await self._look_up(tokens.hash_token(key), self._find_key)
        if principal is None:
            raise InvalidApiKey("The API key is not valid: unknown or revoked")
        if principal.expires_at is not None and principal.expires_at <= self._clock():
            raise InvalidApiKey("The API key has expired")
        return principal

    async def authenticate_session(self, token: str) -> Principal | None:
        """Return the principal of a session; None for an unknown or ended one."""
        principal = await self._look_up(tokens.hash_token(token), self._find_session)
        if principal is None or (principal.expires_at or 0.0) <= self._clock():
            return None
        return principal

    def authenticate_node(self, credential: str) -> Principal | None:
        """Return the node with this credential; None for an unknown or removed one."""
        node_id = self._node_id_of(credential)
        return None if node_id is None else Principal(kind=PrincipalKind.NODE, id=node_id, role=Role.USER)

    async def flush(self) -> None:
        """Write the pending times of last use."""
        self._dirty.clear()
        pending = self._pending_last_used
        self._pending_last_used = {kind: {} for kind in pending}
        if not any(pending.values()):
            return
        try:
            async with self._db.write() as tx:
                await keys.update_last_used(tx, pending[PrincipalKind.KEY])
                await sessions.update_last_seen(tx, pending[PrincipalKind.SESSION])
        except sqlite3.Error as error:
            # A full disk must not lock users out.
            log.warning("could not write the times of last use: %s", error)

    async def _flush_forever(self) -> None:
        while True:
            await self._dirty.wait()
            await asyncio.sleep(FLUSH_DELAY_S)
            await self.flush()

    async def _look_up(self, token_hash: str, lookup: PrincipalLookup) -> Principal | None:
        now = self._clock()
        cached = self._cache.get(token_hash)
        if cached is not None and 0 <= now - cached.cached_at < CACHE_TTL_S:
            principal: Principal | None = cached.principal
        else:
            generation = self._cache_generation
            principal = await lookup(token_hash)
            # A lookup that began before a revocation must not put the revoked key back into the cache.
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
        key = await keys.get_by_hash(self._db, key_hash)
        return None if key is None else principal_of_key(key, await keys.list_ancestors(self._db, key))

    async def _find_session(self, session_id: str) -> Principal | None:
        session = await sessions.get(self._db, session_id)
        return None if session is None or self._is_from_the_future(session) else principal_of_session(session)

    def _is_from_the_future(self, session: Session) -> bool:
        # A session of a time when the clock was ahead would last too long.
        return session.created_at > self._clock() + CONFIRMATION_S

    async def find_principals(self, ids: Collection[str]) -> dict[str, Principal]:
        """Return those of the keys and sessions with these ids that still are in the database, by id.

        Without the keys that they come from.
        """
        found_keys = await keys.list_by_ids(self._db, ids)
        found_sessions = await sessions.list_by_ids(self._db, ids)
        principals = [principal_of_key(key, ()) for key in found_keys]
        principals += [
            principal_of_session(session)
            for session in found_sessions
            if not self._is_from_the_future(session)
        ]
        return {principal.id: principal for principal in principals}
