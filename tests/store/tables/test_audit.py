"""Audit log: pages, and what it keeps when it is flooded."""

from __future__ import annotations

from collections import Counter

import pytest

from llb.store.database import Database
from llb.store.tables import audit
from llb.store.tables.audit import AuditActor, AuditClass

ADMIN = AuditActor(label="owner", id="u-owner", is_admin=True)
BOB, EVE = AuditActor(label="bob", id="u-bob"), AuditActor(label="eve", id="u-eve")


@pytest.fixture
def small_quotas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "QUOTAS", dict.fromkeys(AuditClass, 20))
    monkeypatch.setattr(audit, "PRUNE_INTERVAL", 1)


async def kept(db: Database) -> Counter[tuple[str, str]]:
    """Number of records by actor and action."""
    return Counter((entry.actor, entry.action) for entry in await audit.list_newest(db, limit=1000))


async def test_it_is_read_backwards_in_pages(db: Database) -> None:
    async with db.write() as tx:
        for number in range(5):
            await audit.record(tx, actor=BOB, action="login", target=str(number), address="::1")
    page = await audit.list_newest(db, limit=2)
    assert [entry.target for entry in page] == ["4", "3"]
    rest = await audit.list_newest(db, before_id=page[-1].id)
    assert [entry.target for entry in rest] == ["2", "1", "0"]
    assert rest[0].result == "ok"


@pytest.mark.usefixtures("small_quotas")
async def test_it_is_bounded_and_keeps_the_newest(db: Database) -> None:
    async with db.write() as tx:
        for number in range(50):
            await audit.record(tx, actor=BOB, action="login", target=str(number))
    assert [entry.target for entry in await audit.list_newest(db)] == [str(n) for n in range(49, 29, -1)]


@pytest.mark.usefixtures("small_quotas")
@pytest.mark.parametrize(
    ("flooder", "action", "denied"),
    [
        (EVE, "key.create", False),
        (EVE, "key.limits", False),
        (EVE, "login", False),
        (EVE, "logout", False),
        (AuditActor(label="unknown", id="192.0.2.1"), "login", True),
        (EVE, "refused", True),
        # An administrator displaces only what that administrator did.
        (AuditActor(label="other admin", id="u-other", is_admin=True), "model.pin", False),
    ],
)
async def test_a_flood_displaces_records_of_the_flooder_only(
    db: Database, flooder: AuditActor, action: str, *, denied: bool
) -> None:
    async with db.write() as tx:
        for actor, done in (
            (ADMIN, "user.create"),
            (ADMIN, "key.delete"),
            (audit.SYSTEM, "password"),
            (ADMIN, "login"),
            (BOB, "login"),
            (BOB, "key.create"),
        ):
            await audit.record(tx, actor=actor, action=done)
        await audit.record(tx, actor=BOB, action="login", address="198.51.100.7", denied=True)
    before = await kept(db)
    async with db.write() as tx:
        for number in range(200):
            # Another label each time: a key's name is its user's choice.
            labelled = AuditActor(label=f"{flooder.label} {number}", id=flooder.id, is_admin=flooder.is_admin)
            await audit.record(tx, actor=labelled, action=action, address="192.0.2.1", denied=denied)
    after = await kept(db)
    assert before <= after
    assert after.total() <= 4 * 20


@pytest.mark.usefixtures("small_quotas")
async def test_more_addresses_than_records_leave_the_newest(db: Database) -> None:
    async with db.write() as tx:
        for number in range(50):
            await audit.record(
                tx, actor=BOB, action="login", target=str(number), address=f"192.0.2.{number}", denied=True
            )
    assert [entry.target for entry in await audit.list_newest(db)] == [str(n) for n in range(49, 29, -1)]
