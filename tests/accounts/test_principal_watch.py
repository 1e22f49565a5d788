"""Principal watch: open connections end with their key, session or user."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing

import pytest

from llb.accounts.principal_watch import OpenWork, PrincipalWatch
from llb.security.permissions import LOCAL_PRINCIPAL, Principal, PrincipalKind
from llb.store.tables import users
from llb.wire import OLLAMA_PORT_KEY_ID, Role, Scope
from tests.api.http_server import PASSWORD, ApiServer

NEW_PASSWORD = "another good password"


class Watched:
    """A user with a session, a key made in it, a key of the host, and a key made by that one; all watched."""

    def __init__(self, server: ApiServer, watch: PrincipalWatch) -> None:
        self.server = server
        self.watch = watch
        self.ended: dict[str, asyncio.Event] = {}
        self.work: dict[str, OpenWork] = {}
        self.ids: dict[str, str] = {}

    async def open(self) -> None:
        server = self.server
        await server.add_user("bob", Role.ADMIN)
        self.admin = await server.log_in()
        self.session = await server.log_in("bob")
        made = {}
        for name, credential in (("key", self.session), ("parent", self.admin)):
            made[name] = (
                await server.call(
                    "POST", "/api/keys", credential, json_body={"name": name, "scopes": ["admin"]}
                )
            ).json
        self.parent = ("Authorization", f"Bearer {made['parent']['key']}")
        made["child"] = (
            await server.call(
                "POST", "/api/keys", self.parent, json_body={"name": "child", "scopes": ["admin"]}
            )
        ).json
        self.ids = {name: key["id"] for name, key in made.items()}
        user = await users.get_by_name(server.db, "bob")
        assert user is not None
        self.ids["user"] = user.id
        for name, key in made.items():
            self.watch_principal(name, await server.authenticator.authenticate_key(key["key"]))
        token = self.session[1].partition("=")[2]
        session = await server.authenticator.authenticate_session(token)
        assert session is not None
        self.ids["session"] = session.id
        self.watch_principal("session", session)

    def watch_principal(self, name: str, principal: Principal) -> None:
        self.ended[name] = asyncio.Event()
        self.work[name] = self.watch.watch(OpenWork(self.ended[name].set), principal)

    async def call(self, method: str, path: str, credential: tuple[str, str], body: object = None) -> None:
        answer = await self.server.call(method, path, credential, json_body=body)
        assert answer.status in (200, 204), answer.body

    @property
    def names_ended(self) -> set[str]:
        return {name for name, event in self.ended.items() if event.is_set()}


@pytest.fixture
async def watched(server: ApiServer) -> AsyncIterator[Watched]:
    watch = PrincipalWatch(server.authenticator, clock=time.time, check_interval_s=0.05)
    server.authenticator.accounts_changed.subscribe(watch.check_soon)
    watch.start()
    watched = Watched(server, watch)
    await watched.open()
    yield watched
    await watch.close()


async def elsewhere(watched: Watched, statement: str, *values: object) -> None:
    """A change by another process, of which this one gets no notification."""

    def change() -> None:
        with closing(sqlite3.connect(watched.server.db.path, isolation_level=None)) as connection:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute(statement, values)

    await asyncio.to_thread(change)


ENDINGS: dict[str, tuple[Callable[[Watched], Awaitable[None]], set[str], str]] = {
    "the key is revoked": (
        lambda w: w.call("DELETE", f"/api/keys/{w.ids['key']}", w.admin),
        {"key"},
        "revoked",
    ),
    "the key that made it is revoked": (
        lambda w: w.call("DELETE", f"/api/keys/{w.ids['parent']}", w.admin),
        {"parent", "child"},
        "revoked",
    ),
    "logout": (lambda w: w.call("POST", "/api/auth/logout", w.session), {"session"}, "ended"),
    "the user changes the password": (
        lambda w: w.call(
            "POST",
            "/api/auth/password",
            w.session,
            {"current_password": PASSWORD, "new_password": NEW_PASSWORD},
        ),
        {"session"},
        "ended",
    ),
    "an administrator sets the password": (
        lambda w: w.call("PATCH", f"/api/users/{w.ids['user']}", w.admin, {"password": NEW_PASSWORD}),
        {"session"},
        "ended",
    ),
    "the user is demoted": (
        lambda w: w.call("PATCH", f"/api/users/{w.ids['user']}", w.admin, {"role": "user"}),
        {"session", "key"},
        "permissions",
    ),
    "the user is removed": (
        lambda w: w.call("DELETE", f"/api/users/{w.ids['user']}", w.admin),
        {"session", "key"},
        "revoked",
    ),
    "a command revokes the key": (
        lambda w: elsewhere(w, "DELETE FROM api_keys WHERE id = ?", w.ids["key"]),
        {"key"},
        "revoked",
    ),
    "the key expires": (
        lambda w: elsewhere(
            w, "UPDATE api_keys SET expires_at = ? WHERE id = ?", time.time() - 1, w.ids["key"]
        ),
        {"key"},
        "expired",
    ),
    "the session expires": (
        lambda w: elsewhere(
            w, "UPDATE sessions SET expires_at = ? WHERE id = ?", time.time() - 1, w.ids["session"]
        ),
        {"session"},
        "expired",
    ),
    "the key loses a scope": (
        lambda w: elsewhere(w, "UPDATE api_keys SET scopes = ? WHERE id = ?", '["inference"]', w.ids["key"]),
        {"key"},
        "permissions",
    ),
}


@pytest.mark.parametrize("ending", ENDINGS)
async def test_what_is_open_ends(watched: Watched, ending: str) -> None:
    end, names, reason = ENDINGS[ending]
    await end(watched)
    async with asyncio.timeout(20):
        for name in names:
            await watched.ended[name].wait()
    assert watched.names_ended == names
    for name in names:
        error = watched.work[name].error
        assert error is not None
        assert reason in error.message
        assert error.code == ("insufficient_permissions" if reason == "permissions" else "invalid_api_key")


async def test_what_does_not_concern_it_ends_nothing(watched: Watched) -> None:
    await watched.call(
        "PATCH", f"/api/keys/{watched.ids['key']}", watched.admin, {"limits": {"concurrent": 1}}
    )
    await watched.server.log_in("bob")
    await watched.watch._check()
    assert watched.names_ended == set()
    # One that has ended by itself is not called.
    watched.watch.end(watched.work["key"])
    await watched.call("DELETE", f"/api/keys/{watched.ids['key']}", watched.admin)
    await watched.watch._check()
    assert watched.names_ended == set()


async def test_a_key_expires_while_it_is_used(server: ApiServer) -> None:
    now = [time.time()]
    watch = PrincipalWatch(server.authenticator, clock=lambda: now[0])
    _, bearer = await server.create_key(Scope.INFERENCE, expires_at=now[0] + 60)
    principal = await server.authenticator.authenticate_key(bearer.removeprefix("Bearer "))
    ended = asyncio.Event()
    work = watch.watch(OpenWork(ended.set), principal)
    await watch._check()
    assert not ended.is_set()
    now[0] += 61
    await watch._check()
    assert ended.is_set()
    assert "expired" in str(work.error)


async def test_some_principals_never_end(server: ApiServer) -> None:
    watch = PrincipalWatch(server.authenticator, clock=time.time)
    anonymous = Principal(kind=PrincipalKind.KEY, id=OLLAMA_PORT_KEY_ID, role=Role.USER)
    for principal in (None, LOCAL_PRINCIPAL, anonymous):
        with watch.open(principal) as work:
            await watch._check()
            assert work.error is None


async def test_what_waits_is_cancelled_at_the_end_and_its_result_returned_before(server: ApiServer) -> None:
    watch = PrincipalWatch(server.authenticator, clock=time.time)
    gone = Principal(kind=PrincipalKind.KEY, id="gone", role=Role.USER)
    with watch.open(gone) as work:
        assert await work.run_until_ended(asyncio.sleep(0, "result")) == "result"
        waiting = asyncio.create_task(work.run_until_ended(asyncio.sleep(3600, "never")))
        await asyncio.sleep(0)
        await watch._check()
        assert await waiting is None
        assert work.error is not None
    assert watch._open == {}
