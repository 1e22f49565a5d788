"""Budgets, and what each account has spent a day."""

from __future__ import annotations

from llb.store.database import Database
from llb.store.tables.spend import budgets
from llb.store.tables.spend.budgets import SpendKey
from llb.wire import BudgetPeriod, BudgetScope, NewBudget

DAY_S = 86_400


def budget(name: str, period: BudgetPeriod = BudgetPeriod.DAY, limit_usd: float = 1.0) -> NewBudget:
    return NewBudget(scope=BudgetScope.KEY, id=name, period=period, limit_usd=limit_usd)


def spent(name: str, day: int) -> SpendKey:
    return SpendKey(BudgetScope.PROVIDER, name, day * DAY_S)


async def test_a_new_list_takes_the_place_of_the_old_one(db: Database) -> None:
    monthly = budget("a", BudgetPeriod.MONTH, 0.0)
    async with db.write() as tx:
        await budgets.replace_all(tx, [budget("b"), monthly, budget("a")])
    assert await budgets.list_budgets(db) == [budget("a"), monthly, budget("b")]
    async with db.write() as tx:
        await budgets.replace_all(tx, [])
    assert await budgets.list_budgets(db) == []


async def test_costs_of_a_day_add_up_and_old_days_go(db: Database) -> None:
    async with db.write() as tx:
        await budgets.add_spend(tx, {spent("p", 1): 0.25, spent("p", 2): 1.0}, keep_since=DAY_S)
        await budgets.add_spend(tx, {spent("p", 2): 0.5, spent("q", 2): 2.0}, keep_since=DAY_S)
    assert await budgets.list_spend(db, since=2 * DAY_S) == {spent("p", 2): 1.5, spent("q", 2): 2.0}
    assert (await budgets.list_spend(db, since=0))[spent("p", 1)] == 0.25
    async with db.write() as tx:
        await budgets.add_spend(tx, {}, keep_since=2 * DAY_S)
    assert spent("p", 1) not in await budgets.list_spend(db, since=0)


async def test_a_key_and_a_provider_of_one_name_are_two_accounts(db: Database) -> None:
    key = SpendKey(BudgetScope.KEY, "p", DAY_S)
    async with db.write() as tx:
        await budgets.add_spend(tx, {key: 1.0, spent("p", 1): 2.0}, keep_since=0)
    assert await budgets.list_spend(db, since=0) == {key: 1.0, spent("p", 1): 2.0}
