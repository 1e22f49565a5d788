from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llb.store.clock_keeper import ClockKeeper
from llb.store.database import Database
from llb.store.tables import settings
from llb.store.trusted_clock import CONFIRMATION_S, EARLIEST_PLAUSIBLE, TrustedClock
from tests.store.test_trusted_clock import DAY_S, START, Host

ADD_USER = (
    "INSERT INTO users (id, username, password_hash, role, must_change_password, created_at) "
    "VALUES ('u', 'ann', '', 'user', 0, 0)"
)


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
async def db(tmp_path: Path, host: Host) -> AsyncIterator[Database]:
    database = Database(tmp_path / "llb.db", clock=host.clock)
    await database.start()
    yield database
    await database.close()


async def test_its_state_survives_a_restart(db: Database, host: Host) -> None:
    keeper = ClockKeeper(db)
    await keeper.start()
    host.wall -= 100 * DAY_S
    await keeper.check()
    db.clock = TrustedClock(wall=lambda: host.wall, elapsed=lambda: host.elapsed)
    await ClockKeeper(db).start()
    assert db.clock.latest() == START
    assert db.clock.problem is not None


async def test_a_broken_state_is_replaced(db: Database) -> None:
    async with db.write() as tx:
        await settings.put(tx, "clock", '{"trusted": "yesterday"}')
    keeper = ClockKeeper(db)
    await keeper.start()
    await keeper.close()
    assert "yesterday" not in (await settings.get(db, "clock") or "")


async def test_what_expired_stays_so_when_the_clock_was_set_back_for_good(db: Database, host: Host) -> None:
    async with db.write() as tx:
        await tx.execute(ADD_USER)
        for name, end in (("old", START - 5 * DAY_S), ("new", START + 50 * DAY_S)):
            await tx.execute(
                "INSERT INTO api_keys (id, name, hash, prefix, scopes, expires_at, created_at) "
                "VALUES (?1, ?1, ?1, '', '[]', ?2, 0)",
                (name, end),
            )
            await tx.execute(
                "INSERT INTO sessions (id, user_id, created_at, expires_at, last_seen) "
                "VALUES (?, 'u', 0, ?, ?)",
                (name, end, EARLIEST_PLAUSIBLE),
            )
    keeper = ClockKeeper(db)
    await keeper.start()
    host.wall -= 10 * DAY_S
    await keeper.check()
    host.run(CONFIRMATION_S - 300)
    for _ in range(10):
        host.wall += 60
        host.elapsed += 60
        await keeper.check()
    assert db.clock.problem is None
    ends = {row["id"]: row["expires_at"] for row in await db.fetch_all("SELECT id, expires_at FROM api_keys")}
    assert ends["old"] <= host.wall
    assert ends["new"] == START + 50 * DAY_S
    assert [row["id"] for row in await db.fetch_all("SELECT id FROM sessions")] == ["new"]
