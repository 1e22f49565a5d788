"""Audit log: actions before and after they are done, and denials once a minute."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from llb.api.audit_log import DENIAL_INTERVAL_S, MAX_TRACKED_DENIALS, AuditLog, DeniedRequestAudit
from llb.errors import NotFound
from llb.security.permissions import Principal, PrincipalKind
from llb.store.database import Database
from llb.wire import Role, Scope

PRINCIPAL = Principal(kind=PrincipalKind.KEY, id="key", role=Role.USER)


def request_of(path: str = "/api/models", principal: Principal | None = PRINCIPAL) -> Any:
    return SimpleNamespace(
        method="DELETE",
        path=path,
        route=SimpleNamespace(path=path),
        ctx=SimpleNamespace(principal=principal, client=SimpleNamespace(address="192.0.2.1")),
    )


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    database = await Database.open(tmp_path / "llb.db")
    yield database
    await database.close()


async def results(db: Database) -> list[tuple[str, str, str]]:
    rows = await db.fetch_all("SELECT action, target, result FROM audit ORDER BY id")
    return [tuple(row) for row in rows]


async def test_an_action_is_recorded_before_it_is_done_and_with_its_result(db: Database) -> None:
    log = AuditLog(db)
    async with log.recording(request_of(), "model.unload", "m"):
        [(_, _, begun)] = await results(db)
    with pytest.raises(NotFound):
        async with log.recording(request_of(), "model.unload", "n"):
            raise NotFound("gone")
    with pytest.raises(ZeroDivisionError):
        async with log.recording(request_of(), "model.unload", "o"):
            raise ZeroDivisionError
    assert begun == "begun"
    assert await results(db) == [
        ("model.unload", "m", "ok"),
        ("model.unload", "n", "not_found"),
        ("model.unload", "o", "internal_error"),
    ]


async def test_a_client_that_leaves_leaves_a_result(db: Database) -> None:
    log, is_inside = AuditLog(db), asyncio.Event()

    async def act() -> None:
        async with log.recording(request_of(), "model.unload", "m"):
            is_inside.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(act())
    await is_inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await results(db) == [("model.unload", "m", "cancelled")]


class BrokenDatabase:
    """A disk that takes nothing."""

    def write(self, **_options: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")


async def test_what_cannot_be_recorded_is_not_done(caplog: pytest.LogCaptureFixture) -> None:
    log = AuditLog(cast(Database, BrokenDatabase()))
    done: list[str] = []
    with pytest.raises(sqlite3.OperationalError):
        async with log.recording(request_of(), "model.unload", "m"):
            done.append("m")
    assert done == []
    # What has been done already stands.
    await log.record(request_of(), "node.join", "")
    assert "node.join of nothing is not in the audit log" in caplog.text


class Denials(DeniedRequestAudit):
    """Denials that are counted instead of written."""

    now_s = 0.0

    def __init__(self) -> None:
        super().__init__(cast(Database, BrokenDatabase()), clock=lambda: self.now_s)
        self.targets: list[str] = []

    async def _write_record(self, actor: Any, target: str, address: str) -> None:
        self.targets.append(target)

    async def deny(self, path: str = "/api/models", scope: Scope = Scope.ADMIN) -> int:
        self.record_denial(request_of(path), PRINCIPAL, scope)
        await asyncio.sleep(0)
        return len(self.targets)


async def test_denials_of_one_route_are_recorded_once_a_while() -> None:
    denials = Denials()
    assert [await denials.deny() for _ in range(3)] == [1, 1, 1]
    assert await denials.deny("/api/nodes") == 2
    denials.now_s = DENIAL_INTERVAL_S
    assert await denials.deny() == 3
    # Only administrators' requests are of interest.
    assert await denials.deny("/v1/models", Scope.INFERENCE) == 3
    await denials.close()


async def test_denials_that_are_remembered_are_bounded() -> None:
    denials = Denials()
    for number in range(MAX_TRACKED_DENIALS):
        denials.record_denial(request_of(f"/{number}"), PRINCIPAL, Scope.ADMIN)
    assert len(denials._last_recorded_at) == MAX_TRACKED_DENIALS
    denials.record_denial(request_of("/more"), PRINCIPAL, Scope.ADMIN)
    assert len(denials._last_recorded_at) == 1
    await denials.close()
