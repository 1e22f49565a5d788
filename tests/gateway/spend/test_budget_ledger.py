"""Budgets: reservations at once, settlement on every end, periods, free and unknown prices, restarts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llb.errors import BudgetExceeded
from llb.gateway.spend.budget_ledger import Account, BudgetLedger, accounts_of
from llb.security.permissions import Principal, PrincipalKind
from llb.store.database import Database
from llb.wire import BudgetPeriod, BudgetScope, NewBudget, Role

# 2027-01-15T12:00:00Z
NOON = 1_800_014_400.0
DAY_S = 86_400
KEY, OPENAI = Account(BudgetScope.KEY, "k"), Account(BudgetScope.PROVIDER, "openai")


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await Database.open(tmp_path / "llb.db")
    yield opened
    await opened.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def ledger(db: Database, clock: Clock) -> AsyncIterator[BudgetLedger]:
    made = BudgetLedger(db, clock=clock)
    await made.start()
    yield made
    await made.close()


def budget(account: Account, limit_usd: float, period: BudgetPeriod = BudgetPeriod.DAY) -> NewBudget:
    return NewBudget(scope=account.scope, id=account.id, period=period, limit_usd=limit_usd)


def used(ledger: BudgetLedger) -> list[float]:
    return [view.used_usd for view in ledger.views()]


async def test_of_a_hundred_requests_at_once_a_budget_for_ten_admits_ten(ledger: BudgetLedger) -> None:
    await ledger.replace_budgets([budget(KEY, 10.0)])
    admitted = asyncio.Event()
    refused: list[BudgetExceeded] = []

    async def ask() -> None:
        try:
            reservation = ledger.reserve((KEY, OPENAI), 1.0, target="openai")
        except BudgetExceeded as error:
            refused.append(error)
        else:
            await admitted.wait()
            reservation.settle(0.9)

    asked = [asyncio.ensure_future(ask()) for _ in range(100)]
    while len(refused) < 90:
        await asyncio.sleep(0)
    assert used(ledger) == [0.0]
    admitted.set()
    await asyncio.gather(*asked)
    assert len(refused) == 90
    assert used(ledger) == [9.0]
    # The reserved amount that was not spent is available again.
    ledger.reserve((KEY,), 1.0, target="openai").release()
    with pytest.raises(BudgetExceeded, match=r"this API key.* day .*2027-01-16"):
        ledger.reserve((KEY,), 1.01, target="openai")


async def test_a_reservation_ends_once_however_the_request_ends(ledger: BudgetLedger) -> None:
    await ledger.replace_budgets([budget(OPENAI, 1.0)])
    for cost in (0.0, 0.25, None):
        reservation = ledger.reserve((OPENAI,), 0.3, target="openai")
        reservation.settle(cost)
        reservation.settle(5.0)
        reservation.release()
    # An unknown cost counts as the reserved amount.
    assert used(ledger) == [0.55]
    ledger.reserve((OPENAI,), 0.45, target="openai").release()
    assert used(ledger) == [0.55]


async def test_free_models_are_never_refused(ledger: BudgetLedger) -> None:
    await ledger.replace_budgets([budget(KEY, 0.0), budget(OPENAI, 0.0, BudgetPeriod.MONTH)])
    ledger.reserve((KEY, OPENAI), 0.0, target="vllm").settle(0.0)
    with pytest.raises(BudgetExceeded):
        ledger.reserve((KEY,), 0.000001, target="openai")


async def test_an_unknown_price_is_refused_only_where_a_budget_applies(ledger: BudgetLedger) -> None:
    ledger.reserve((KEY, OPENAI), None, target="openai").settle(None)
    await ledger.replace_budgets([budget(KEY, 10.0)])
    ledger.reserve((OPENAI,), None, target="openai").release()
    with pytest.raises(BudgetExceeded, match="the price of the model at 'openai' is unknown"):
        ledger.reserve((KEY, OPENAI), None, target="openai")


async def test_the_strictest_budget_counts(ledger: BudgetLedger) -> None:
    await ledger.replace_budgets(
        [budget(KEY, 5.0), budget(KEY, 8.0, BudgetPeriod.MONTH), budget(OPENAI, 100.0, BudgetPeriod.MONTH)]
    )
    ledger.reserve((KEY, OPENAI), 5.0, target="openai").settle(5.0)
    with pytest.raises(BudgetExceeded):
        ledger.reserve((KEY, OPENAI), 0.1, target="openai")
    ledger.reserve((OPENAI,), 95.0, target="openai").release()
    with pytest.raises(BudgetExceeded, match="'openai' for this month"):
        ledger.reserve((OPENAI,), 95.1, target="openai")


async def test_days_and_months_begin_anew(ledger: BudgetLedger, clock: Clock) -> None:
    await ledger.replace_budgets([budget(KEY, 1.0), budget(KEY, 2.0, BudgetPeriod.MONTH)])
    for _ in range(2):
        ledger.reserve((KEY,), 1.0, target="openai").settle(1.0)
        clock.now += DAY_S
    assert used(ledger) == [0.0, 2.0]
    with pytest.raises(BudgetExceeded, match="month"):
        ledger.reserve((KEY,), 0.5, target="openai")
    clock.now += 15 * DAY_S
    assert used(ledger) == [0.0, 0.0]
    ledger.reserve((KEY,), 0.5, target="openai").release()


async def test_what_was_spent_is_known_after_a_restart(
    db: Database, ledger: BudgetLedger, clock: Clock
) -> None:
    # Also costs from before there was a budget.
    ledger.reserve((KEY, OPENAI), 3.0, target="openai").settle(2.5)
    await ledger.replace_budgets([budget(KEY, 3.0), budget(OPENAI, 9.0, BudgetPeriod.MONTH)])
    ledger.reserve((KEY,), 0.5, target="openai").settle(0.25)
    await ledger.close()
    again = BudgetLedger(db, clock=clock)
    await again.start()
    assert used(again) == [2.75, 2.5]
    with pytest.raises(BudgetExceeded):
        again.reserve((KEY,), 0.5, target="openai")
    await again.close()


def test_a_request_is_booked_to_its_key_and_to_the_keys_that_made_it() -> None:
    principal = Principal(kind=PrincipalKind.KEY, id="child", role=Role.USER, key_ids=("child", "k"))
    assert accounts_of(principal, "endpoint-1", "openai", "openai") == (
        Account(BudgetScope.KEY, "child"),
        KEY,
        Account(BudgetScope.PROVIDER, "endpoint-1"),
        OPENAI,
    )
    session = Principal(kind=PrincipalKind.SESSION, id="s", role=Role.USER)
    assert accounts_of(session, "openai") == (OPENAI,)
