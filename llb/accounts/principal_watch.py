"""Principal watch: ends the streams and WebSockets of a key or a session when that ends.

A request is authorised when it arrives. A stream or a WebSocket may stay open long after its key was revoked,
its session has ended, or its user was removed or has lost permissions.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol, TypeVar

from llb.accounts.authenticator import AccountAuthenticator
from llb.base.tasks import TaskSupervisor
from llb.errors import InvalidApiKey, LlbError, PermissionDenied
from llb.security.permissions import Principal, PrincipalKind
from llb.wire import OLLAMA_PORT_KEY_ID

log = logging.getLogger(__name__)

T = TypeVar("T")
WorkT = TypeVar("WorkT", bound="WatchedWork")

# A change by this process counts at once. One by another process (a command) and an expiry count after this.
CHECK_INTERVAL_S = 1.0
_ENDING_KINDS = (PrincipalKind.KEY, PrincipalKind.SESSION)


class WatchedWork(Protocol):
    """Work of one principal. `error`: why it must end; None while it may continue."""

    error: LlbError | None

    def on_ended(self) -> object:
        """End the work: its principal has ended."""
        ...


class OpenWork:
    """A stream or a WebSocket of one principal. `error`: why it must end; None while it may continue."""

    __slots__ = ("_on_ended", "error")

    def __init__(self, on_ended: Callable[[], object]) -> None:
        self._on_ended = on_ended
        self.error: LlbError | None = None

    def on_ended(self) -> None:
        self._on_ended()


class EndableWork(OpenWork):
    """Work that waits in `run_until_ended`."""

    __slots__ = ("_ended",)

    def __init__(self) -> None:
        self._ended = asyncio.Event()
        super().__init__(self._ended.set)

    async def run_until_ended(self, coroutine: Coroutine[Any, Any, T]) -> T | None:
        """Await `coroutine`; cancel it and return None when the principal ends."""
        running = asyncio.ensure_future(coroutine)
        ending = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait((running, ending), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (running, ending):
                task.cancel()
            await asyncio.gather(running, ending, return_exceptions=True)
        return None if self.error is not None else running.result()


class PrincipalWatch:
    """Everything that is open, by principal."""

    def __init__(
        self,
        authenticator: AccountAuthenticator,
        *,
        clock: Callable[[], float],
        check_interval_s: float = CHECK_INTERVAL_S,
    ) -> None:
        self._authenticator = authenticator
        self._check_interval_s = check_interval_s
        self._clock = clock
        self._tasks = TaskSupervisor("principal-watch")
        self._open: dict[WatchedWork, Principal] = {}
        self._has_open = asyncio.Event()
        self._check_wanted = asyncio.Event()

    def start(self) -> None:
        """Start to check."""
        self._tasks.spawn(self._check_forever(), "check")

    async def close(self) -> None:
        """Stop to check; idempotent."""
        await self._tasks.close()

    def end(self, work: WatchedWork) -> None:
        """Stop watching work that has ended; idempotent."""
        self._open.pop(work, None)

    @contextmanager
    def open(self, principal: Principal | None) -> Iterator[EndableWork]:
        """Watch `principal` in the block; None is a program of this host, which has no end."""
        work = self.watch(EndableWork(), principal)
        try:
            yield work
        finally:
            self.end(work)

    def watch(self, work: WorkT, principal: Principal | None) -> WorkT:
        """Call `work.on_ended`, once, when `principal` ends, until `end` is called; returns `work`."""
        if (
            principal is not None
            and principal.kind in _ENDING_KINDS
            # It has no credential.
            and principal.id != OLLAMA_PORT_KEY_ID
        ):
            if not self._open:
                self._has_open.set()
            self._open[work] = principal
        return work

    def check_soon(self) -> None:
        """Check now: a user, a key or a session was changed."""
        self._check_wanted.set()

    async def _check_forever(self) -> None:
        while True:
            await self._has_open.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._check_interval_s):
                    await self._check_wanted.wait()
            self._check_wanted.clear()
            if not self._open:
                self._has_open.clear()
                continue
            try:
                await self._check()
            except sqlite3.Error as error:
                log.warning("could not check whether open streams may continue: %s", error)

    async def _check(self) -> None:
        works = tuple(self._open.items())
        current = await self._authenticator.find_principals({principal.id for _, principal in works})
        now = self._clock()
        for work, principal in works:
            error = _reason_to_end(principal, current.get(principal.id), now)
            if error is not None and work in self._open:
                del self._open[work]
                work.error = error
                work.on_ended()


def _reason_to_end(principal: Principal, current: Principal | None, now: float) -> LlbError | None:
    name = "session" if principal.kind is PrincipalKind.SESSION else "API key"
    if current is None:
        return InvalidApiKey(f"The {name} was ended or revoked meanwhile")
    # The end of a session moves while it is used. A key expires with those that it comes from, too, which are
    # not looked up again; that never moves.
    ends = [current.expires_at]
    if principal.kind is PrincipalKind.KEY:
        ends.append(principal.expires_at)
    if any(expires_at is not None and expires_at <= now for expires_at in ends):
        return InvalidApiKey(f"The {name} has expired meanwhile")
    if principal.granted_scopes - current.granted_scopes:
        return PermissionDenied(f"The {name} has lost permissions meanwhile")
    return None
